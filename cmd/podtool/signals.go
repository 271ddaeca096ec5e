package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// signals turns SIGTERM and SIGINT into the end of a context. The kernel does not
// deliver a signal for which process 1 has no handler, so a handler is always
// installed.
type signals struct {
	ctx        context.Context
	ignoreTerm atomic.Bool
	waiting    atomic.Bool  // for a child process, which reap must not collect
	got        atomic.Int32 // the signal that ended ctx
}

// watchSignals starts handling; stop ends it.
func watchSignals(parent context.Context) (s *signals, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	s = &signals{ctx: ctx}
	incoming := make(chan os.Signal, 8)
	signal.Notify(incoming, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	go func() {
		s.reap() // those that ended before the handler was installed
		for sig := range incoming {
			switch {
			case sig == syscall.SIGCHLD:
				s.reap()
			case sig == syscall.SIGTERM && s.ignoreTerm.Load():
			default:
				s.got.CompareAndSwap(0, int32(sig.(syscall.Signal)))
				cancel()
			}
		}
	}()
	return s, func() {
		signal.Stop(incoming)
		close(incoming)
		cancel()
	}
}

// exitCode returns the exit code that a shell reports for death by the received signal.
func (s *signals) exitCode() int { return 128 + int(s.got.Load()) }

// reap collects ended orphans, which only process 1 gets. It cannot distinguish them
// from a child of its own, and waits until that has ended.
func (s *signals) reap() {
	if os.Getpid() != 1 || s.waiting.Load() {
		return
	}
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && err != syscall.EINTR {
			return
		}
	}
}
