package cribench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// few is the first point of the slope; Options.Pods is the second.
const few = 10

// memory measures the memory of the runtime's own processes with few and with many
// Pods. Processes of containers and sandboxes do not count.
func (l *lab) memory(ctx context.Context) error {
	fmt.Fprintf(l.Out, "\nmemory of the runtimes' own processes (PSS), without those of containers and sandboxes, in MiB\n")
	tw := tabwriter.NewWriter(l.Out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "side\tidle\t%d Pods\t%d Pods\tfor each Pod more\tprocesses\tRSS of the largest that are not the server\t\n", few, l.Pods)
	for _, s := range l.sides {
		if s.dir == "" {
			fmt.Fprintf(tw, "%s\tnot started here, not measured\t\n", s.name)
			continue
		}
		if err := l.slope(ctx, s, tw); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return tw.Flush()
}

func (l *lab) slope(ctx context.Context, s *side, tw *tabwriter.Writer) (err error) {
	var sandboxes []string
	var admitted []*runtimeapi.PodSandboxConfig
	defer func() { err = errors.Join(err, s.stop(ctx, sandboxes), dismiss(admitted...)) }()
	var at []footprint
	for _, n := range []int{0, few, l.Pods} {
		pods, err := l.crowdOf(n - len(sandboxes))
		admitted = append(admitted, pods...)
		if err != nil {
			return err
		}
		more, err := l.start(ctx, s, pods)
		sandboxes = append(sandboxes, more...)
		if err != nil {
			return err
		}
		time.Sleep(time.Second) // what belongs to the starts is over
		f, err := s.footprint()
		if err != nil {
			return err
		}
		at = append(at, f)
	}
	last := at[2]
	fmt.Fprintf(tw, "%s\t%.1f\t%.1f\t%.1f\t%.3f\t%d\t%.1f\t\n", s.name, mib(at[0].pss), mib(at[1].pss), mib(last.pss),
		mib(last.pss-at[1].pss)/float64(l.Pods-few), last.processes, mib(last.helper))
	return nil
}

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }

// footprint is the memory of a side's processes.
type footprint struct {
	processes int
	pss       int // bytes
	helper    int // RSS of the largest that is not the server, bytes
}

// footprint adds up the processes that have the side's mark in their environment and
// share this process's mount namespace: a container has its own.
func (s *side) footprint() (f footprint, err error) {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return f, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return f, err
	}
	for _, dir := range dirs {
		theirs, _ := os.Readlink(filepath.Join(dir, "ns/mnt"))
		pid, _ := strconv.Atoi(filepath.Base(dir)) // which it is
		if theirs != ours || !procmark.Carries(pid, markVariable+"="+s.dir) {
			continue
		}
		pss, rss, err := smaps(filepath.Join(dir, "smaps_rollup"))
		if err != nil {
			continue
		}
		f.processes++
		f.pss += pss
		if pid != s.pid {
			f.helper = max(f.helper, rss)
		}
	}
	return f, nil
}

// smaps reads proc_pid_smaps_rollup(5), which counts in KiB.
func smaps(file string) (pss, rss int, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	scan := bufio.NewScanner(bytes.NewReader(content))
	for scan.Scan() {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "Pss:":
			pss = n << 10
		case "Rss:":
			rss = n << 10
		}
	}
	return pss, rss, scan.Err()
}
