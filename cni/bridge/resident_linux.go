package bridge

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspool"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// usualLinger is a resident's linger.
const usualLinger = 15 * time.Millisecond

// resident is what the plugin keeps in a long-running process.
type resident struct {
	group  uint32        // of links that are to be removed
	linger time.Duration // how long a removal waits for others, or for the namespace to go
	hosts  nspool.Pool[*host]

	mu    sync.Mutex
	batch map[netns.ID]*rtnl.Conn // of removals that have not begun
	under sync.WaitGroup          // removals that have not ended
}

func newResident() *resident {
	return &resident{group: newGroup(), linger: usualLinger, batch: map[netns.ID]*rtnl.Conn{}}
}

// newGroup returns a number that, in all likelihood, no group of links has. It is
// never 0, the default group.
func newGroup() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.NativeEndian.Uint32(b[:])>>1 | 1<<30
}

// kept returns the pool of kept sockets; nil, which keeps none, without a resident.
func (s *resident) kept() *nspool.Pool[*host] {
	if s == nil {
		return nil
	}
	return &s.hosts
}

// leavingGroup returns the group of links that are removed together; 0, which changes
// nothing, if each DEL removes its own pair.
func (p *plugin) leavingGroup() uint32 {
	if p.stays == nil {
		return 0
	}
	return p.stays.group
}

// remove schedules the removal of a pair that is in the group: by a removal that
// begins after this call. If none can be scheduled, it removes the pair at once.
func (s *resident) remove(h *host, l *rtnl.Link, log *slog.Logger) error {
	if err := s.schedule(h.ns, log); err != nil {
		return errors.Join(err, deleteLink(h.links, l))
	}
	return nil
}

// schedule ensures that a removal begins in the namespace soon, and not before this
// call.
func (s *resident) schedule(ns netns.ID, log *slog.Logger) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch[ns] != nil {
		return nil
	}
	// The socket is opened here, because this thread is in the right namespace.
	conn, err := rtnl.Open()
	if err != nil {
		return err
	}
	s.batch[ns] = conn
	s.under.Go(func() {
		time.Sleep(s.linger)
		s.mu.Lock()
		delete(s.batch, ns) // pairs added from now on may be too late for this removal
		s.mu.Unlock()
		// What fails is left to the next DEL, ADD or GC.
		if err := conn.Do(rtnl.DeleteGroup(s.group)); err != nil && !rtnl.IsNotFound(err) {
			log.Error("removing veth pairs", "err", err)
		}
		_ = conn.Close()
	})
	return nil
}

// close waits for the removals and closes the sockets.
func (s *resident) close() error {
	s.under.Wait()
	for _, h := range s.hosts.Close() {
		h.close()
	}
	return nil
}
