package runtime

import (
	"errors"
	"sync"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// settler syncs records to disk and then ends the intents of their ADDs, in the
// background: no Pod waits for the disk. In between, the record is written and the
// intent is open:
//
//   - the death of the process leaves both, and Open continues from there: an intent with a
//     whole record is that of an ADD that has succeeded;
//   - a power failure may lose the record, or a part of it, but not the intent, which was
//     durable before the first plugin ran. Then the DEL is due.
//
// A failed sync is not retried: the kernel reports the failure once, and the next
// sync would succeed. The intent then stays open until the attachment goes. The zero
// value is ready to use.
type settler struct {
	mu      sync.Mutex
	waiting []written
	open    []written // synced, with an intent that could not be ended yet
	running bool
	idle    sync.WaitGroup
}

// written is a record and the intent that it ends.
type written struct {
	key    cni.Attachment
	intent journal.ID
}

// settle schedules the sync of the record. Records that arrive in the meantime are
// synced together.
func (n *Network) settle(w written) {
	s := &n.settler
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, w)
	if s.running {
		return
	}
	s.running = true
	s.idle.Go(func() {
		for batch := s.next(); batch != nil; batch = s.next() {
			n.settleAll(batch)
		}
	})
}

// next returns what is waiting, together with what is to be retried. If nothing is
// waiting, it marks the settler as idle.
func (s *settler) next() (batch []written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running = len(s.waiting) > 0; s.running {
		batch = append(s.open, s.waiting...)
		s.open, s.waiting = nil, nil
	}
	return batch
}

func (s *settler) again(w written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, w)
}

// settleAll settles what it can. Otherwise the intent stays open, and the next Open
// finds the attachment as it was.
func (n *Network) settleAll(batch []written) {
	paths := make([]string, len(batch))
	for i, w := range batch {
		paths[i] = n.records.path(w.key)
	}
	for i, err := range atomicfile.Sync(paths...) {
		w := batch[i]
		log := n.config.Logger.With("container", w.key.ContainerID, "interface", w.key.IfName)
		if err != nil {
			log.Error("the record of an attachment is not on the disk", "err", err)
			continue
		}
		if err := n.end(w); err != nil {
			log.Error("the intent of an attachment that is recorded cannot be ended yet", "err", err)
			n.settler.again(w)
		}
	}
}

// end ends the intent, unless a DEL already has, or another ADD has begun since.
func (n *Network) end(w written) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.intents[w.key]; !ok || i.id != w.intent {
		return nil
	}
	if err := n.journal.Done(w.intent); err != nil {
		return err
	}
	delete(n.intents, w.key)
	return nil
}

// resume continues with an intent that an earlier process left, and reports whether
// the attachment exists: the record of its ADD is there. A damaged record counts for
// nothing if the network namespace is gone, as after a power failure; if the
// namespace exists, the disk is at fault and the Pod runs. A record of an earlier
// attachment, which a power failure brought back, says nothing about this one.
func (n *Network) resume(key cni.Attachment, i intent) (attached bool, err error) {
	r, err := n.records.get(key)
	switch {
	case errors.Is(err, fault.NotFound):
		return false, nil
	case errors.Is(err, fault.Invalid):
		n.config.Logger.Error("the record of an attachment is damaged", "container", key.ContainerID, "interface", key.IfName, "err", err)
		attached = !gone(i.record.Attachment.NetNS)
	case err != nil:
		return false, err
	default:
		attached = r.Attempt == i.record.Attempt
	}
	if !attached {
		return false, n.records.remove(key)
	}
	n.records.dropProgress(key)
	if r == nil {
		return true, nil
	}
	if err := n.records.put(r); err != nil { // again, because its sync may have failed
		n.config.Logger.Error("the record of an attachment cannot be written anew", "container", key.ContainerID, "interface", key.IfName, "err", err)
		return true, nil
	}
	n.settle(written{key, i.id})
	return true, nil
}
