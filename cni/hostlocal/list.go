package hostlocal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// look reads every file of the network, ordered by address, under the network's lock
// if there is one. It is for people, who may inspect a copy or what another program
// left: it creates, repairs and quarantines nothing.
func (s *store) look(ctx context.Context) (all []reservation, err error) {
	file := filepath.Join(s.path, "lock")
	if _, err := os.Stat(file); err == nil {
		lock, err := flock.Acquire(ctx, file, flock.Shared)
		if err != nil {
			return nil, err
		}
		defer lock.Release()
	}
	names, err := namesIn(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := retry(func() (int, error) { return unix.Open(s.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	for _, name := range names {
		a, aside := quarantinedAddr(name)
		if !aside {
			var is bool
			if a, is = reservedAddr(name); !is {
				continue
			}
		}
		r, err := readReservation(dir, name, s.boot)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			r.damage = err.Error()
		}
		r.addr, r.aside = a, aside
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b reservation) int { return a.addr.Compare(b.addr) })
	return all, nil
}
