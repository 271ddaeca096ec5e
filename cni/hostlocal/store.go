package hostlocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// store is the reservations of one network under the network's lock, which is held
// until close. Its directory holds the upstream plugin's files and, beside them, an
// index.
//
// The index detects changes by others as follows. The last act of a call that changed
// anything sets the directory's mtime to a value that the index records and that no
// clock gives: a second ago, with a random fraction. If anybody then creates, removes
// or renames a file, including a call of this plugin that is killed, the kernel sets
// another mtime; then every file is read and the index rebuilt.
type store struct {
	path    string
	spread  topdir.Spread // of reservations, those of all networks
	network string
	dir     int    // -1 if the network has no directory
	leave   func() // leaves the queue; nil before it was entered
	lock    *flock.Lock
	boot    boot
	log     *slog.Logger
	idx     *index
	changed bool
}

func newStore(dataDir, network string, b boot, log *slog.Logger) *store {
	return &store{
		path: filepath.Join(dataDir, network), spread: topdir.Spread(filepath.Join(dataDir, ".spread")), // no network has this name
		network: network, dir: -1, boot: b, log: log,
	}
}

// errOutdated means that the index and the files disagree.
var errOutdated = errors.New("the index disagrees with the reservations")

// withStore calls fn with the network's reservations, and again if the index turns
// out to be outdated. For a network that was never used fn sees none and, unless
// create is set, nothing is created.
func withStore(ctx context.Context, s *store, create bool, fn func() error) (err error) {
	defer s.close()
	if err := s.open(ctx, create); err != nil {
		return fmt.Errorf("opening reservations of network %q: %w", s.network, err)
	}
	err = fn()
	if errors.Is(err, errOutdated) || s.idx.err != nil {
		s.log.Warn("making the index of reservations new", "network", s.network, "err", errors.Join(err, s.idx.err))
		if err := s.scan(); err != nil {
			return fmt.Errorf("reading reservations of network %q: %w", s.network, err)
		}
		err = fn()
	}
	return err
}

// queue orders the calls in this process, by directory.
var queue flock.Queue

func (s *store) open(ctx context.Context, create bool) (err error) {
	if s.leave, err = queue.Enter(ctx, s.path); err != nil {
		return err
	}
	s.lock, err = flock.Acquire(ctx, filepath.Join(s.path, "lock"), flock.Exclusive)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err = os.MkdirAll(s.path, 0o755); err == nil {
			s.lock, err = flock.Acquire(ctx, filepath.Join(s.path, "lock"), flock.Exclusive)
		}
	}
	if errors.Is(err, fs.ErrNotExist) && !create {
		s.idx = newIndex(s.boot, 0, 0)
		return nil
	}
	if err != nil {
		return err
	}
	s.dir, err = retry(func() (int, error) {
		return unix.Open(s.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	return s.load()
}

// load opens the index or builds one.
func (s *store) load() error {
	var st unix.Stat_t
	err := unix.Fstat(s.dir, &st)
	if err != nil {
		return err
	}
	s.idx, err = openIndex(s.dir, s.boot, st.Mtim)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		s.log.Warn("the index of reservations cannot be used and is made new", "network", s.network, "err", err)
	}
	if s.idx != nil {
		return nil
	}
	return s.scan()
}

// close saves the index and releases the lock. If the index cannot be saved, the next
// call has to read every file; that is all.
func (s *store) close() {
	if s.changed && s.dir >= 0 && s.idx != nil {
		if err := s.save(); err != nil {
			s.log.Warn("the index of reservations cannot be saved", "network", s.network, "err", err)
		}
	}
	s.idx.close()
	if s.dir >= 0 {
		unix.Close(s.dir)
	}
	s.lock.Release()
	if s.leave != nil {
		s.leave()
	}
}

func (s *store) save() error {
	now := time.Now()
	at := now.Add(-time.Second - time.Duration(now.Nanosecond()) + rand.N(time.Second))
	times := []unix.Timespec{unix.NsecToTimespec(now.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	if err := s.idx.save(s.dir, times[1]); err != nil {
		return err
	}
	return unix.UtimesNanoAt(s.dir, ".", times, 0)
}

// heldBy returns what the attachment has according to the files. Files of early
// versions of the upstream plugin name no interface and belong to the container.
func (s *store) heldBy(a cni.Attachment) (held []holding, err error) {
	for _, owner := range []cni.Attachment{a, {ContainerID: a.ContainerID}} {
		for _, h := range s.idx.held(keyOf(owner)) {
			r, err := s.read(h)
			if err != nil {
				return nil, err
			}
			if r.owner == owner {
				h.stale = r.stale
				held = append(held, h)
			}
		}
	}
	if s.idx.err != nil {
		return nil, errOutdated
	}
	return held, nil
}

// read reads the file of a holding and compares its owner.
func (s *store) read(h holding) (reservation, error) {
	r, err := readReservation(s.dir, h.addr.String(), s.boot)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return r, fmt.Errorf("reading reservation %s: %w", h.addr, err)
	}
	if err != nil || r.damage != "" || keyOf(r.owner) != h.key {
		return r, errOutdated
	}
	return r, nil
}

// create reserves a free address.
func (s *store) create(a netip.Addr, owner cni.Attachment) error {
	s.changed = true
	err := s.createReservation(a.String(), owner)
	if errors.Is(err, unix.EEXIST) {
		return errOutdated
	}
	if err != nil {
		return fmt.Errorf("reserving %s: %w", a, err)
	}
	s.idx.add(holding{key: keyOf(owner), addr: a})
	if s.idx.crowded() {
		larger := s.idx.grown()
		s.idx.close()
		s.idx = larger
	}
	return nil
}

// remove releases an address, which is not reused for the delay.
func (s *store) remove(h holding, delay time.Duration) error {
	s.changed = true
	if err := unix.Unlinkat(s.dir, h.addr.String(), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("releasing %s: %w", h.addr, err)
	}
	s.idx.remove(h, delay)
	return nil
}
