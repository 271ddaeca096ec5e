package image

import (
	"errors"
	"os"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// explainDisk gives errors of a disk that is full or read-only a kind, and tells the
// operator where to look.
func (s *Store) explainDisk(err error) error {
	switch {
	case diskFull(err):
		return fault.Exhausted.Errorf("the disk of the image store %s is full: remove images, or give it more: %w", s.dir, err)
	case errors.Is(err, syscall.EROFS):
		return fault.FailedPrecondition.Errorf("the image store %s cannot be written to: %w", s.dir, err)
	}
	return err
}

// diskFull reports whether space, inodes or quota were exhausted.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// diskRefuses reports whether what has been written so far is useless: it takes space
// from others, or is damaged.
func diskRefuses(err error) bool { return diskFull(err) || errors.Is(err, syscall.EIO) }

// reserved is more than the size of an index.
const reserved = 1 << 20

// fillReserve gives the reserve its full size if there is space. A failure does no harm:
// it is tried again when the store is opened or an image removed.
func (s *Store) fillReserve() {
	if fi, err := os.Stat(s.reservePath()); err == nil && fi.Size() == reserved {
		return
	}
	if err := os.WriteFile(s.reservePath(), make([]byte, reserved), 0o600); err != nil {
		_ = os.Remove(s.reservePath()) // a part of it would only take space
	}
}
