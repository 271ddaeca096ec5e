package sockfile_test

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/internal/sockfile"
)

func TestPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := socket(t)
	l, err := (&net.ListenConfig{Control: sockfile.Private}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("bind(2) makes %v, %v; want mode 0600", fi.Mode(), err)
	}
}
