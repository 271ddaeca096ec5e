package cni

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// refusing is a listener that has nothing but errors to give.
type refusing struct {
	net.Listener
	errs []error
}

func (r *refusing) Accept() (net.Conn, error) {
	err := r.errs[0]
	r.errs = r.errs[1:]
	return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", err)}
}

// TestAcceptGoesOn: a shortage ends neither the server nor the CPU's rest.
func TestAcceptGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Logger: slog.New(slog.DiscardHandler)}
		l := &refusing{}
		for range 20 {
			l.errs = append(l.errs, syscall.EMFILE, syscall.ECONNABORTED)
		}
		l.errs = append(l.errs, net.ErrClosed)
		start := time.Now()
		var running sync.WaitGroup
		if err := s.accept(t.Context(), l, &running); err != nil || len(l.errs) > 0 {
			t.Errorf("%v, and %d errors were not seen", err, len(l.errs))
		}
		if took := time.Since(start); took < 20*time.Second || took > 40*time.Second {
			t.Errorf("40 errors took %s", took)
		}
		l.errs = []error{syscall.EINVAL}
		if err := s.accept(t.Context(), l, &running); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("a socket that is none: %v", err)
		}
	})
}
