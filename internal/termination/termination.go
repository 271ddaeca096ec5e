// Package termination notifies a short-lived process that it is asked to end.
//
// os/signal does that with three threads and some twenty switches between them, for
// which a process that is executed for one request waits: a third of its time on a
// busy machine (docs/decisions/008). On systems whose kernel interface is known, the
// signal handler is a single system call.
package termination

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Context returns a context that ends when SIGTERM or SIGINT arrives, and whose cause
// names the signal. After it returns, neither signal ends the process any more, for
// the rest of its life, even if the process was started with one of them ignored.
// Call it once, before anybody calls os/signal for these signals: a later call of
// os/signal receives them instead of the context. Executed programs are not affected.
func Context() context.Context {
	ctx, end := context.WithCancelCause(context.Background())
	wait, err := handle()
	if err != nil {
		wait = notify()
	}
	go func() { end(fmt.Errorf("%v signal received", wait())) }()
	return ctx
}

// notify is handle by means of os/signal, for every system.
func notify() (wait func() syscall.Signal) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return func() syscall.Signal { return (<-signals).(syscall.Signal) }
}
