//go:build !linux

package netns

import "github.com/nodekit-project/nodekit/internal/fault"

var errOS = fault.Unimplemented.Errorf("network namespaces need Linux")

// Handle is an open network namespace.
type Handle struct{}

// ID identifies a network namespace.
type ID struct {
	Dev, Ino uint64
}

// Create needs Linux.
func Create(string) error { return errOS }

// Pin needs Linux.
func Pin(string, string) error { return errOS }

// Remove needs Linux.
func Remove(string) error { return errOS }

// Open needs Linux.
func Open(string) (*Handle, error) { return nil, errOS }

// Current needs Linux.
func Current() (*Handle, error) { return nil, errOS }

// CurrentID needs Linux.
func CurrentID() (ID, error) { return ID{}, errOS }

// FD needs Linux.
func (h *Handle) FD() int { return -1 }

// ID needs Linux.
func (h *Handle) ID() (ID, error) { return ID{}, errOS }

// Cookie needs Linux.
func (h *Handle) Cookie() (uint64, error) { return 0, errOS }

// Close needs Linux.
func (h *Handle) Close() error { return errOS }

// Visit needs Linux.
func Visit(int, func() error) error { return errOS }

// Do needs Linux.
func (h *Handle) Do(func() error) error { return errOS }

// Do needs Linux.
func Do(string, func() error) error { return errOS }
