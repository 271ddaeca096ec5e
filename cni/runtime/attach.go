package runtime

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// Attach adds the container to the network: it runs ADD of every plugin in order. If
// that fails, it runs DEL of every plugin, and the runtime need not call Detach, though
// it may. An attachment that exists, or whose DEL is still due, is fault.AlreadyExists.
// Without a valid configuration, or if one of its plugins is missing, the error is
// fault.Unavailable and no plugin has run.
func (n *Network) Attach(ctx context.Context, a Attachment) (*cni.Result, error) {
	return n.AttachWith(ctx, a, func() error { return nil })
}

// AttachWith is Attach for a network namespace that prepare creates. It calls prepare
// once, before the first plugin runs and in parallel with writing the intent to disk,
// which takes about as long. It does not call prepare if it refuses the attachment
// beforehand. If prepare fails, its error is returned and no plugin has run.
func (n *Network) AttachWith(ctx context.Context, a Attachment, prepare func() error) (*cni.Result, error) {
	n.makeUp(ctx)
	ctx, unlock, err := n.enter(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("attaching %q: %w", a.key(), err)
	}
	defer unlock()
	result, err := n.attach(ctx, a, prepare)
	if err != nil {
		return nil, fmt.Errorf("attaching %q: %w", a.key(), err)
	}
	return result, nil
}

func (n *Network) attach(ctx context.Context, a Attachment, prepare func() error) (*cni.Result, error) {
	l, err := n.load()
	if err != nil {
		return nil, err
	}
	if known, err := n.known(a.key()); err != nil || known != nil {
		return nil, errors.Join(fault.AlreadyExists.Errorf("it is attached already, or its removal is due"), err)
	}
	if err := n.find(l); err != nil { // before a plugin runs whose DEL would need the others
		return nil, err
	}
	r := &record{Version: recordVersion, Attachment: a, List: l, Lacked: n.lacking(l), Attempt: rand.Text()}
	var result *cni.Result
	err = retry(ctx, func() (err error) {
		result, err = n.tryAttach(ctx, r, prepare)
		prepare = func() error { return nil }
		return err
	})
	if err != nil {
		n.status.forget()
	}
	return result, err
}

// tryAttach creates the attachment or leaves nothing of it. A failure that may pass
// is transient, unless undoing it failed too: then it is not retried.
func (n *Network) tryAttach(ctx context.Context, r *record, prepare func() error) (*cni.Result, error) {
	r.Result = nil
	if err := n.begin(r, prepare); err != nil {
		return nil, err
	}
	var begun int
	var result *cni.Result
	var err error
	r.Result, begun, err = n.runAdd(ctx, r)
	if err == nil {
		result, err = cni.DecodeResult(r.Result, r.List.Version)
	}
	if err == nil {
		err = n.succeed(r)
	}
	if err == nil {
		return result, nil
	}
	if begun == 0 {
		return nil, errors.Join(err, n.confirm(r.Attachment.key()))
	}
	if uerr := n.undo(ctx, r); uerr != nil {
		return nil, &settled{errors.Join(err, uerr)}
	}
	return nil, err
}

// undo runs the DEL of a failed ADD, which the specification requires, even if the
// caller's context has ended.
func (n *Network) undo(ctx context.Context, r *record) error {
	if err := n.detach(context.WithoutCancel(ctx), r); err != nil {
		return fmt.Errorf("undoing it: %w", err)
	}
	return nil
}

// Detach removes the container from the network: it runs DEL of every plugin in reverse
// order, continuing past errors. It succeeds at once if the attachment is not recorded,
// that is, if no ADD was started or its DEL is done. NetNS may be empty or gone. After
// an error, Detach may be called again.
func (n *Network) Detach(ctx context.Context, a Attachment) error {
	ctx, unlock, err := n.enter(ctx, a)
	if err != nil {
		return fmt.Errorf("detaching %q: %w", a.key(), err)
	}
	defer unlock()
	r, err := n.due(a)
	if err == nil && r != nil {
		err = n.detach(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("detaching %q: %w", a.key(), err)
	}
	return nil
}

// due returns the record of an attachment whose DEL is to run, or nil. If the record
// is damaged, an open intent has everything but the result; without one, a DEL with
// the current configuration is better than none. In both cases the ADD has succeeded.
func (n *Network) due(a Attachment) (*record, error) {
	r, err := n.known(a.key())
	if !errors.Is(err, fault.Invalid) {
		return r, err
	}
	n.config.Logger.Error("detaching without the record of the attachment", "container", a.ContainerID, "interface", a.IfName, "err", err)
	if begun := n.begun(a.key()); begun != nil {
		r := *begun
		r.recorded = true
		return &r, nil
	}
	l, err := n.load()
	return &record{Version: recordVersion, Attachment: a, List: l, recorded: true}, err
}

func (n *Network) detach(ctx context.Context, r *record) error {
	if err := n.runDel(r.context(ctx), r); err != nil {
		return err
	}
	if err := n.records.remove(r.Attachment.key()); err != nil {
		return err
	}
	return n.confirm(r.Attachment.key())
}

// enter takes the container's locks and puts the Pod into the context.
func (n *Network) enter(ctx context.Context, a Attachment) (context.Context, func(), error) {
	if err := a.validate(); err != nil {
		return ctx, nil, err
	}
	ctx = (&record{Attachment: a}).context(ctx)
	leave, err := n.guard.enter(ctx, a.ContainerID)
	return ctx, leave, err
}

// known returns what is recorded about the attachment, or nil.
func (n *Network) known(key cni.Attachment) (*record, error) {
	r, err := n.records.get(key)
	if err == nil {
		return r, nil
	}
	if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	return n.begun(key), nil
}

// begun returns the record in the attachment's open intent, or nil.
func (n *Network) begun(key cni.Attachment) *record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.intents[key].record
}

// begin makes the intent durable while prepare runs.
func (n *Network) begin(r *record, prepare func() error) error {
	key := r.Attachment.key()
	var id journal.ID
	var disk errgroup.Group
	disk.Go(func() (err error) {
		id, err = n.journal.Begin(kindAdd, r)
		return err
	})
	perr := prepare()
	if err := disk.Wait(); err != nil {
		return errors.Join(perr, err)
	}
	n.mu.Lock()
	n.intents[key] = intent{id, r}
	n.mu.Unlock()
	if perr != nil {
		return errors.Join(perr, n.confirm(key))
	}
	return nil
}

// succeed stores the result of an ADD. From then on the ADD has succeeded, for the
// next process too; only the sync to disk remains.
func (n *Network) succeed(r *record) error {
	key := r.Attachment.key()
	if err := n.records.put(r); err != nil {
		return err
	}
	n.records.dropProgress(key)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.settle(written{key, n.intents[key].id})
	return nil
}

// confirm ends the intent of an attachment that is gone. If that cannot be written,
// the intent stays open and a DEL is due, which a restart would also run.
func (n *Network) confirm(key cni.Attachment) error {
	n.mu.Lock()
	i, ok := n.intents[key]
	n.mu.Unlock()
	if !ok {
		return nil
	}
	n.records.dropProgress(key)
	if err := n.journal.Done(i.id); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.intents, key)
	return nil
}

// Result returns the result of an attachment that exists, also after a restart,
// or fault.NotFound.
func (n *Network) Result(a Attachment) (*cni.Result, error) {
	r, err := n.records.get(a.key())
	if err != nil {
		return nil, err
	}
	return cni.DecodeResult(r.Result, r.List.Version)
}
