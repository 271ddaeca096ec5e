package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// signals turns SIGTERM and SIGINT into the end of a context. The kernel does
// not deliver a signal to process 1 that it has no handler for, so a handler is always
// installed.
type signals struct {
	ctx        context.Context
	ignoreTerm atomic.Bool
	waiting    atomic.Bool  // for a child of our own, which reap must not take
	got        atomic.Int32 // the signal that ended ctx
}

// watchSignals starts handling; stop ends it.
func watchSignals(parent context.Context) (s *signals, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	s = &signals{ctx: ctx}
	incoming := make(chan os.Signal, 8)
	signal.Notify(incoming, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	go func() {
		s.reap() // what ended before there was a handler
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

// exitCode is what a shell reports for death by the signal that came.
func (s *signals) exitCode() int { return 128 + int(s.got.Load()) }

// reap collects orphans that ended, which only process 1 is given. It cannot
// tell them from a child of our own, and waits until that has ended.
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
