// Package termination tells a process that lives for a moment that it is asked to end.
//
// os/signal does that with three threads and some twenty turns of them, for which a
// process that is executed for one request waits: a third of its time on a busy
// machine (docs/decisions/008). Where the kernel's interface is known, the signal's
// handler is a system call and nothing else.
package termination

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Context returns a context that ends when SIGTERM or SIGINT arrives, and whose cause
// names the signal. From its return on neither of them ends the process any more, for
// the rest of its life, also when the process was started with one of them ignored. It
// is called once, before anybody calls os/signal for these signals: who does so later
// has them instead of the context. Programs that are executed are not affected.
func Context() context.Context {
	ctx, end := context.WithCancelCause(context.Background())
	wait, err := handle()
	if err != nil {
		wait = notify()
	}
	go func() { end(fmt.Errorf("%v signal received", wait())) }()
	return ctx
}

// notify is handle by the means of os/signal, on every system.
func notify() (wait func() syscall.Signal) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return func() syscall.Signal { return (<-signals).(syscall.Signal) }
}
