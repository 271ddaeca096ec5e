package cribench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/procmark"
)

// exit measures the time from the death of a container's process to the event. It omits
// runtimes without events.
func (l *lab) exit(ctx context.Context) error {
	var sides []*side
	for _, s := range l.sides {
		err := s.events(ctx)
		if errors.Is(err, cri.ErrUnimplemented) {
			if _, err := fmt.Fprintf(l.Out, "\n%s has no container events.\n", s.name); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	return l.measure(ctx, "from SIGKILL to a container's process to the event that says so, at a subscriber", l.Rounds, l.death, sides)
}

// events returns why the runtime has no events, or nil. Not every runtime confirms a
// subscription, so only an early error shows it.
func (s *side) events(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return s.Client.Events(ctx, nil, func(*runtimeapi.ContainerEventResponse) {})
}

func (l *lab) death(ctx context.Context, s *side) (sample bench.Sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pod, err := l.admit()
	defer func() { err = errors.Join(err, dismiss(pod)) }()
	if err != nil {
		return sample, err
	}
	sandbox, container, _, err := l.up(ctx, s, pod)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, s.down(ctx, sandbox)) }()
	pid, err := processOf(ctx, containerMark(pod))
	if err != nil {
		return sample, err
	}
	ready, seen := make(chan struct{}), make(chan time.Time, 1)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- s.Client.Events(watch, func() { close(ready) }, func(e *runtimeapi.ContainerEventResponse) {
			if e.GetContainerId() == container && e.GetContainerEventType() == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				select {
				case seen <- time.Now():
				default:
				}
			}
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		return sample, err
	}
	time.Sleep(rest)
	killed := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return sample, err
	}
	select {
	case at := <-seen:
		sample.Total = at.Sub(killed)
		return sample, nil
	case <-ctx.Done():
		return sample, fault.Unavailable.Errorf("no event within a minute of the container's death")
	}
}

// processOf returns the process that carries the mark (containerMark). An OCI runtime may
// return a moment before the container's program is executed.
func processOf(ctx context.Context, mark string) (int, error) {
	for {
		pid, err := findProcess(mark)
		if err == nil || ctx.Err() != nil {
			return pid, err
		}
		time.Sleep(time.Millisecond)
	}
}

func findProcess(mark string) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && procmark.Carries(pid, mark) {
			return pid, nil
		}
	}
	return 0, fault.NotFound.Errorf("no process has the mark %s", mark)
}
