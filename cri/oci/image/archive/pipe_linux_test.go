package archive_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/image/archive"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestOpenPipe: a pipe without a writer is refused, not waited for.
func TestOpenPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := archive.Open(pipe, &archive.Options{Scratch: t.TempDir(), MaxBytes: 1 << 20})
		refused <- err
	}()
	select {
	case err := <-refused:
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%v, want fault.Invalid", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits")
	}
}
