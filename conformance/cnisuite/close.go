package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// How long each part of taking a lab down may last after the rule's own time is over.
// A run waits only so much longer for a check: see stopGrace in package conformance.
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
	errs = append(errs, l.tearDown(ctx))
	for _, c := range l.made {
		errs = append(errs, netns.Remove(c.ns))
	}
	return errors.Join(append(errs, netns.Remove(l.host))...)
}

// payDELs sends the DELs that a rule omitted, for what the plugin keeps outside of
// the lab: those of one container one after the other, as a runtime must, and all
// containers in parallel. Whether they succeed does not matter to the rule. They may
// use the rest of the rule's time.
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

// tearDown ends what the target's daemon has set up, and every process that the
// plugin and the daemon left running. What follows assumes that they are gone, so all
// of them have released their files, locks and sockets when it returns.
func (l *lab) tearDown(ctx context.Context) error {
	dying := processes{}
	defer dying.release()
	if l.target.Teardown == "" && l.daemon == 0 {
		return l.endProcesses(dying)
	}
	// A process that is being killed has no memory any more by which it could be
	// found.
	err := l.hold(dying)
	if l.target.Teardown != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTime)
		defer cancel()
		_, failed := l.shell(ctx, "teardown", l.target.Teardown)
		if !l.killed {
			err = errors.Join(err, failed)
		}
	}
	return errors.Join(err, l.endProcesses(dying))
}

// endProcesses kills what is dying and what the plugin and its daemon left running,
// and waits until none is left.
func (l *lab) endProcesses(dying processes) error {
	deadline := time.Now().Add(settleTime)
	for {
		if err := l.hold(dying); err != nil || len(dying) == 0 {
			return err
		}
		if left := dying.end(deadline); len(left) > 0 {
			return fmt.Errorf("killed and still there: processes %v", left)
		}
	}
}
