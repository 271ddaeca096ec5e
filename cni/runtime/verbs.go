package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Check asks every plugin in order whether the attachment is as ADD left it, with the
// parameters and configuration of that ADD. It stops at the first error. An attachment
// that does not exist is fault.NotFound. With disableCheck, or a configuration version
// before 0.4.0, no plugin is asked.
func (n *Network) Check(ctx context.Context, a Attachment) error {
	ctx, leave, err := n.enter(ctx, a)
	if err != nil {
		return fmt.Errorf("checking %q: %w", a.key(), err)
	}
	defer leave()
	r, err := n.records.get(a.key())
	if err == nil && r.checkable() {
		_, err = n.runCheck(r.context(ctx), r, 0)
	}
	if err != nil {
		return fmt.Errorf("checking %q: %w", a.key(), err)
	}
	return nil
}

// checkable reports whether the configuration allows CHECK.
func (r *record) checkable() bool {
	return !bool(r.List.DisableCheck) && cni.AtLeast(r.List.Version, "0.4.0")
}

// GC removes every attachment that is not in valid. Those that this network recorded
// get their DEL; then, from version 1.1.0 on and unless the configuration sets
// disableGC, GC of every plugin frees what nobody recorded. It continues past errors
// and joins them. It waits for running operations and holds back new ones. A runtime
// calls it at startup, with all attachments in its records.
//
// If there is no configuration yet, GC returns fault.Unavailable, and GC of the plugins
// runs before the first Attach that finds a configuration.
func (n *Network) GC(ctx context.Context, valid []Attachment) error {
	leave, err := n.guard.alone(ctx)
	if err != nil {
		return fmt.Errorf("collecting garbage: %w", err)
	}
	defer leave()
	keep := map[cni.Attachment]bool{}
	list := make([]cni.Attachment, 0, len(valid))
	for _, a := range valid {
		keep[a.key()] = true
		list = append(list, a.key())
	}
	stale, err := n.stale(keep)
	errs := append([]error{err}, n.detachAll(ctx, stale)...)
	network, err := n.load()
	n.owe(list, err)
	if err == nil {
		err = n.collect(ctx, network, list)
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("collecting garbage: %w", err)
	}
	return nil
}

// owe records a collection that failed because there was no configuration.
func (n *Network) owe(valid []cni.Attachment, err error) {
	if errors.Is(err, fault.Unavailable) {
		n.owed.Store(&valid)
	} else {
		n.owed.Store(nil)
	}
}

// makeUpWithin is how long a Pod waits for a collection that is made up for.
const makeUpWithin = 30 * time.Second

// makeUp makes up for a collection that is owed, if there is a configuration now:
// before the first address is given, and keeping what else is on record. What
// fails is logged, for it is no reason to refuse a Pod, nor is what does not end.
func (n *Network) makeUp(ctx context.Context) {
	if n.owed.Load() == nil {
		return
	}
	l, err := n.load()
	if err != nil {
		return
	}
	leave, err := n.guard.alone(ctx)
	if err != nil {
		return // the caller's context has ended
	}
	defer leave()
	owed := n.owed.Swap(nil)
	if owed == nil {
		return // another call was faster
	}
	keep := map[cni.Attachment]bool{}
	for _, key := range *owed {
		keep[key] = true
	}
	since, err := n.stale(keep)
	if err == nil {
		within, cancel := context.WithTimeout(ctx, makeUpWithin)
		err = n.collect(within, l, slices.Concat(*owed, since))
		cancel()
	}
	if err != nil {
		if ctx.Err() != nil {
			n.owed.CompareAndSwap(nil, owed) // the next Attach tries again
		}
		n.config.Logger.Error("the garbage that was left when there was no configuration is not collected", "err", err)
	}
}

// stale returns the attachments that are recorded or whose ADD has begun, and that
// are not in keep.
func (n *Network) stale(keep map[cni.Attachment]bool) ([]cni.Attachment, error) {
	keys, err := n.records.keys()
	n.mu.Lock()
	for key := range n.intents {
		keys = append(keys, key)
	}
	n.mu.Unlock()
	var out []cni.Attachment
	for _, key := range keys {
		if !keep[key] {
			out, keep[key] = append(out, key), true
		}
	}
	return out, err
}

// detachAll detaches what is stale: the attachments of a container one after the other, and
// those of different ones side by side, for one that hangs must not have the time of all.
func (n *Network) detachAll(ctx context.Context, keys []cni.Attachment) []error {
	errs := make([]error, len(keys))
	containers := map[string][]int{}
	for i, key := range keys {
		containers[key.ContainerID] = append(containers[key.ContainerID], i)
	}
	var detaching errgroup.Group
	detaching.SetLimit(recoverAtOnce)
	for _, of := range containers {
		detaching.Go(func() error {
			for _, i := range of {
				errs[i] = n.detachStale(ctx, keys[i])
			}
			return nil
		})
	}
	_ = detaching.Wait()
	return errs
}

func (n *Network) detachStale(ctx context.Context, key cni.Attachment) error {
	r, err := n.due(Attachment{ContainerID: key.ContainerID, IfName: key.IfName})
	if err == nil && r != nil {
		err = n.detach(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("detaching %q: %w", key, err)
	}
	return nil
}

// collect runs GC of every plugin of the configuration.
func (n *Network) collect(ctx context.Context, l *list, valid []cni.Attachment) error {
	if bool(l.DisableGC) || !cni.AtLeast(l.Version, "1.1.0") {
		return nil
	}
	list, err := json.Marshal(valid)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range l.Plugins {
		config, err := base(l, p)
		if err != nil {
			return err
		}
		config["cni.dev/valid-attachments"] = list
		stdin, err := encode(config)
		if err == nil {
			err = n.insist(ctx, p, n.env(cni.CmdGC, Attachment{}), stdin)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
