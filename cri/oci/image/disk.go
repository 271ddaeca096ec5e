package image

import (
	"errors"
	"os"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// explainDisk gives the errors of a disk that takes no more a kind, and the
// operator a place to look at.
func (s *Store) explainDisk(err error) error {
	switch {
	case diskFull(err):
		return fault.Exhausted.Errorf("the disk of the image store %s is full: remove images, or give it more: %w", s.dir, err)
	case errors.Is(err, syscall.EROFS):
		return fault.FailedPrecondition.Errorf("the image store %s cannot be written to: %w", s.dir, err)
	}
	return err
}

// diskFull reports whether there was no space, no inode, or no quota left.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// diskRefuses reports whether what is written so far is of no use: it stands in
// the way of others, or is damaged.
func diskRefuses(err error) bool { return diskFull(err) || errors.Is(err, syscall.EIO) }

// reserved is more than an index takes.
const reserved = 1 << 20

// fillReserve makes the reserve what it should be, if there is space. Failing is
// no harm: it is tried again when the store is opened, or an image removed.
func (s *Store) fillReserve() {
	if fi, err := os.Stat(s.reservePath()); err == nil && fi.Size() == reserved {
		return
	}
	if err := os.WriteFile(s.reservePath(), make([]byte, reserved), 0o600); err != nil {
		_ = os.Remove(s.reservePath()) // a part of it would be in the way of others
	}
}
