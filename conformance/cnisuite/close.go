package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// How long each part of taking a lab down may last once the rule's own time is
// over. A run waits for a check only so much longer than that: see stopGrace of
// the package conformance.
const (
	owedTime     = 5 * time.Second
	teardownTime = 5 * time.Second
)

// close takes the lab down. Whatever the plugin does, nothing of the lab stays:
// neither a pinned namespace nor a process.
func (l *lab) close(ctx context.Context) error {
	l.handOver = 0 // nobody reads what is written now
	errs := []error{l.ipam.wake()}
	l.payDELs(ctx)
	errs = append(errs, l.tearDown(ctx), l.endProcesses())
	for _, c := range l.made {
		errs = append(errs, netns.Remove(c.ns))
	}
	return errors.Join(append(errs, netns.Remove(l.host))...)
}

// payDELs sends the DELs that a rule left out, for what the plugin keeps outside
// of the lab: those of one container one after the other, as a runtime has to,
// and all containers at the same time. Whether they succeed is not what the rule
// is about. They may use what is left of the rule's time.
func (l *lab) payDELs(ctx context.Context) {
	deadline := time.Now().Add(owedTime)
	if own, ok := ctx.Deadline(); ok && own.After(deadline) {
		deadline = own
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	owed := map[string][]*container{}
	for _, c := range l.made {
		if c.owed {
			owed[c.id] = append(owed[c.id], c)
		}
	}
	var all sync.WaitGroup
	for _, attachments := range owed {
		all.Go(func() {
			for _, c := range attachments {
				if _, err := l.call(ctx, "DEL", c, with{}); err != nil {
					l.log.Warn("a DEL that the rule left out", "container", c.id, "interface", c.ifName, "err", err)
				}
			}
		})
	}
	all.Wait()
}

func (l *lab) tearDown(ctx context.Context) error {
	var err error
	if l.target.Teardown != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTime)
		defer cancel()
		_, err = l.shell(ctx, "teardown", l.target.Teardown)
	}
	if l.daemon != 0 {
		_ = syscall.Kill(-l.daemon, syscall.SIGKILL) // it may have ended
	}
	return err
}

// endProcesses kills what the plugin and its daemon left running, and waits until it
// is not seen any more: what comes next takes it for gone.
func (l *lab) endProcesses() error {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
		now, err := leak.Take(l.scopeOf(leak.Process))
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(now.Names(leak.Process), func(name string) bool { return pidOf(name) <= 1 })
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("killed and still there: %q", left)
		}
		for _, name := range left {
			_ = syscall.Kill(pidOf(name), syscall.SIGKILL) // it may have ended
		}
	}
}
