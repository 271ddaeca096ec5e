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

// unknownID is an id that nothing has, as long as real ids are.
const unknownID = "0000000000000000000000000000000000000000000000000000000000000bad"

// clockSlack is how far the runtime's timestamps may be from the suite's clock.
const clockSlack = time.Minute

// recent returns an error unless a time in nanoseconds is close to now.
func recent(nanoseconds int64) error {
	if at := time.Unix(0, nanoseconds); time.Since(at).Abs() > clockSlack {
		return fmt.Errorf("the time %d is %v from now: it is in nanoseconds since 1970", nanoseconds, time.Since(at).Round(time.Second))
	}
	return nil
}

// mark returns a string that only the environments of the container's processes have.
func (b *box) mark() string {
	for _, e := range b.config.GetEnvs() {
		if e.GetKey() == "SUITE_MARK" {
			return string(e.GetValue())
		}
	}
	return ""
}

// pids returns the host PIDs of the container's processes. The box notes if there were
// any.
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

// carries looks only at the environment: the runtime's own programs may have the mark
// among their arguments.
func carries(pid int, mark string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains(string(env), mark)
}

// seenTime is how long the process of a started container may be missing from the
// machine's.
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

// hidden reports whether the runtime's author declares that the containers' processes are
// not processes of this machine.
func (s *subject) hidden() bool { return slices.Contains(s.target.Lacks, HostProcesses) }

// witness returns when a process of the running container was seen, which ended relies
// on. Hidden processes are not checked.
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

// ended returns nil when no process of the container is left. Seeing none proves that
// only if one was seen before.
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

// hostname returns the node's hostname.
func hostname() (string, error) { return os.Hostname() }
