package runtime

import (
	"errors"
	"sync"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// settler makes records durable, and then ends the intents of their ADDs, behind the
// back of Attach: a Pod waits for no disk. In between the record is written, and the
// intent is open:
//
//   - the death of the process leaves both, and Open goes on from there: an intent whose
//     record is whole is that of an ADD that has succeeded;
//   - a loss of power may take the record, or a part of it, and leaves the intent, which
//     is durable since before the first plugin ran. Then the DEL is due.
//
// The zero value is ready.
type settler struct {
	mu      sync.Mutex
	waiting []written
	running bool
	idle    sync.WaitGroup
}

// written is a record, and the intent that it ends.
type written struct {
	key    cni.Attachment
	intent journal.ID
}

// settle has the record made durable. Those that come meanwhile are done together.
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

// next returns what waits. With nothing it says that nobody works any more.
func (s *settler) next() (batch []written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.waiting = s.waiting, nil
	s.running = batch != nil
	return batch
}

// settleAll does what can be done. What cannot leaves the intent open: an attachment
// that the next Open finds as it was, or whose DEL is due there.
func (n *Network) settleAll(batch []written) {
	paths := make([]string, len(batch))
	for i, w := range batch {
		paths[i] = n.records.path(w.key)
	}
	for i, err := range atomicfile.Sync(paths...) {
		w := batch[i]
		if err == nil {
			err = n.end(w)
		}
		if err != nil {
			n.config.Logger.Error("a loss of power may take the record of an attachment", "container", w.key.ContainerID, "interface", w.key.IfName, "err", err)
		}
	}
}

// end ends the intent, unless a DEL has, or another ADD has begun since.
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

// resume goes on with an intent that an earlier process has left. It reports whether its
// ADD has succeeded; a record that a loss of power has damaged is worth less than the intent.
func (n *Network) resume(key cni.Attachment, i intent) (attached bool, err error) {
	switch _, err := n.records.get(key); {
	case err == nil:
		n.settle(written{key, i.id})
		return true, nil
	case errors.Is(err, fault.Invalid):
		n.config.Logger.Error("undoing an attachment whose record is damaged", "container", key.ContainerID, "interface", key.IfName, "err", err)
		return false, n.records.remove(key)
	case errors.Is(err, fault.NotFound):
		return false, nil
	default:
		return false, err
	}
}
