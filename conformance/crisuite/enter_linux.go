package crisuite

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// enterNetNS returns a function that moves its thread, which becomes the
// runtime's, into the network namespace.
func enterNetNS(path string) func() error {
	return func() error {
		h, err := netns.Open(path)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %q: %w", path, err)
		}
		return nil
	}
}
