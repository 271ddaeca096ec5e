package cnibench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/isolate"
)

// Isolate executes this program again with the arguments, in a new network and mount
// namespace, and waits for it. Whatever the run creates is gone with its process
// (isolate.Run). data, unless empty, is a directory that must not exist: it is created,
// and removed at the end.
func Isolate(ctx context.Context, args []string, data string) (err error) {
	if data != "" {
		if err := os.Mkdir(data, 0o700); err != nil {
			return fmt.Errorf("making the directory for reservations: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	}
	return isolate.Run(ctx, args, false)
}

// home is the directory for what a run creates. Only its mount namespace sees it.
const home = "/run/nodekit-bench"

// settleIn turns the new namespaces into a host: /run is in memory and empty, so that
// sockets, locks and pinned namespaces belong to this run, and the loopback interface
// is up.
func settleIn() error {
	if err := unix.Mount("none", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a file system in memory at /run: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(home, "netns"), 0o700); err != nil {
		return err
	}
	return isolate.Loopback()
}
