package crisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// measureRules report how long things take and what they cost. They are for people to
// read, not for gates: a loaded machine is slow, too.
func measureRules() []rule {
	measure := func(id, title string, check look, needs ...Feature) rule {
		r := heavy(facto(id, title, "node", "What a runtime takes is not left for Pods.", check, needs...))
		r.Level, r.Title = conformance.Advisory, title
		return r
	}
	return []rule{
		measure("CRI-TIME-001", "starts half of the Pods within a second, and takes them down within another", checkStartTimes, Containers),
		measure("CRI-TIME-002", "shows half of the exits within 100 ms", checkExitTimes, Containers, HostProcesses),
		measure("CRI-TIME-003", "writes half of the lines within 100 ms", checkLogTimesTaken, Containers),
		measure("CRI-TIME-004", "takes less than 20 MiB of memory for a Pod", checkMemoryPerPod, Containers),
	}
}

// samples is how many times each measurement is taken.
const samples = 10

// median returns an error when more than half of the durations are longer than the limit.
func median(what string, took []time.Duration, limit time.Duration) error {
	over := 0
	for _, d := range took {
		if d > limit {
			over++
		}
	}
	if over > len(took)/2 {
		return fmt.Errorf("%s took more than %v in %d of %d cases", what, limit, over, len(took))
	}
	return nil
}

func checkStartTimes(ctx context.Context, s *subject) error {
	if _, err := s.present(ctx, mainImage); err != nil {
		return err
	}
	var starts, ends []time.Duration
	for range samples {
		begin := time.Now()
		b, err := s.box(ctx, forever)
		if err != nil {
			return err
		}
		starts = append(starts, time.Since(begin))
		begin = time.Now()
		if err := s.remove(ctx, b.pod.id); err != nil {
			return err
		}
		ends = append(ends, time.Since(begin))
		s.in.Measure("start of a Pod", starts[len(starts)-1])
		s.in.Measure("end of a Pod", ends[len(ends)-1])
	}
	return errors.Join(median("the start of a Pod", starts, time.Second), median("the end of a Pod", ends, time.Second))
}

// checkExitTimes kills the container's process from the host, to know when it exits.
func checkExitTimes(ctx context.Context, s *subject) error {
	var took []time.Duration
	for range samples {
		b, err := s.box(ctx, forever)
		if err != nil {
			return err
		}
		pid, err := b.pid(ctx)
		if err != nil {
			return err
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := p.Kill(); err != nil {
			return err
		}
		if _, err := b.exited(ctx); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		s.in.Measure("exit seen", took[len(took)-1])
	}
	return median("seeing an exit", took, 100*time.Millisecond)
}

// checkLogTimesTaken compares when a line is in the log with the time in its record.
func checkLogTimesTaken(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "lines --interval 50ms 0")
	if err != nil {
		return err
	}
	var took []time.Duration
	seen := 0
	for len(took) < samples {
		err := until(ctx, endTime, func() error {
			data, err := os.ReadFile(b.logFile())
			if n := bytes.Count(data, []byte{'\n'}); err == nil && n <= seen {
				return errors.New("the log does not grow")
			}
			return err
		})
		if err != nil {
			return err
		}
		records, err := b.records()
		if err != nil {
			return err
		}
		seen = len(records)
		took = append(took, max(0, time.Since(records[seen-1].Time)))
		s.in.Measure("line in the log", took[len(took)-1])
	}
	return median("writing a line", took, 100*time.Millisecond)
}

// memory returns the proportional set size of the runtime's processes, without those of
// the containers.
func (s *subject) memory() (sum int64, err error) {
	pids, err := s.markedPIDs()
	if err != nil {
		return 0, err
	}
	for _, pid := range append(pids, s.process.PID()) {
		if carries(pid, s.mark) {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended, or is a zombie
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kib, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					return 0, err
				}
				sum += kib << 10
			}
		}
	}
	return sum, nil
}

func checkMemoryPerPod(ctx context.Context, s *subject) error {
	if s.process == nil {
		return conformance.NotApplicable("the target is an endpoint: its processes are not known")
	}
	if err := s.comeAndGoPods(ctx, 2); err != nil {
		return err
	}
	before, err := s.memory()
	if err != nil {
		return err
	}
	const most = 20 * mib
	for range samples {
		if _, err := s.box(ctx, forever); err != nil {
			return err
		}
	}
	after, err := s.memory()
	if err != nil {
		return err
	}
	each := max(0, after-before) / samples
	s.in.MeasureBytes("memory of the runtime for a Pod (PSS)", each)
	if each > most {
		return fmt.Errorf("a Pod takes %d bytes of memory beside its containers", each)
	}
	return nil
}
