package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unknownID is the id of nothing, of the length that ids have.
const unknownID = "0000000000000000000000000000000000000000000000000000000000000bad"

// clockSlack is how far the runtime's clock readings may be from the suite's.
const clockSlack = time.Minute

// recent returns an error unless a time in nanoseconds is about now.
func recent(nanoseconds int64) error {
	if at := time.Unix(0, nanoseconds); time.Since(at).Abs() > clockSlack {
		return fmt.Errorf("the time %d is %v from now: it is in nanoseconds since 1970", nanoseconds, time.Since(at).Round(time.Second))
	}
	return nil
}

// mark is what the environment of the container's processes has and nothing else's.
func (b *box) mark() string {
	for _, e := range b.config.GetEnvs() {
		if e.GetKey() == "SUITE_MARK" {
			return string(e.GetValue())
		}
	}
	return ""
}

// pids returns the processes of the container as the host numbers them. The box
// remembers that there were some.
func (b *box) pids() (found []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !carries(pid, b.mark()) {
			continue
		}
		found = append(found, pid)
	}
	if len(found) > 0 {
		b.seen.Store(true)
	}
	return found, nil
}

// carries looks at the environment alone: the runtime's own programs may have the
// mark among their arguments.
func carries(pid int, mark string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains(string(env), mark)
}

// seenTime is how long the process of a container that was started may be missing
// among those of the machine.
const seenTime = 3 * time.Second

// pid returns the container's first process.
func (b *box) pid(ctx context.Context) (pid int, err error) {
	err = until(ctx, seenTime, func() error {
		pids, err := b.pids()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return errors.New("the container's process is not among those of the machine")
		}
		pid = pids[0]
		return nil
	})
	return pid, err
}

// hidden reports whether the processes of containers are not those of this machine, by
// their author's word.
func (s *subject) hidden() bool { return slices.Contains(s.target.Lacks, HostProcesses) }

// witness returns when a process of the running container was seen, which is what ended
// builds on. Of hidden processes nothing is asked.
func (b *box) witness(ctx context.Context) error {
	if b.s.hidden() {
		return nil
	}
	_, err := b.pid(ctx)
	return err
}

// watched starts a container, and returns when its process was seen.
func (s *subject) watched(ctx context.Context, verb string, edits ...edit) (*box, error) {
	b, err := s.box(ctx, verb, edits...)
	if err != nil {
		return nil, err
	}
	return b, b.witness(ctx)
}

// ended returns nil when no process of the container is left. That none is seen says so
// only of one whose process was seen before.
func (b *box) ended() error {
	if b.s.hidden() {
		return nil
	}
	if !b.seen.Load() {
		return errors.New("no process of the container was ever seen, so that none seems to be left")
	}
	pids, err := b.pids()
	if err == nil && len(pids) > 0 {
		return fmt.Errorf("processes %v of the container run on", pids)
	}
	return err
}

// hostname is the node's.
func hostname() (string, error) { return os.Hostname() }
