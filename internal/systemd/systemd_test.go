package systemd_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/systemd"
)

func TestNotifier(t *testing.T) {
	for name, socket := range map[string]string{
		"in a directory": filepath.Join(t.TempDir(), "notify"),
		"abstract":       "@nodekit-test-" + filepath.Base(t.TempDir()) + time.Now().Format(time.RFC3339Nano),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			t.Setenv("NOTIFY_SOCKET", socket)
			n, err := systemd.TakeNotifier()
			if err != nil {
				t.Fatal(err)
			}
			if _, there := os.LookupEnv("NOTIFY_SOCKET"); there {
				t.Error("what is started now speaks in the service's name")
			}
			for _, state := range []string{systemd.Ready, systemd.Stopping} {
				if err := n.Tell(state); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				size, err := conn.Read(buf)
				if err != nil || string(buf[:size]) != state {
					t.Errorf("systemd was told %q, %v; want %q", buf[:size], err, state)
				}
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := systemd.TakeNotifier()
	if err != nil || n != nil {
		t.Errorf("without a socket: %v, %v", n, err)
	}
	if err := n.Tell(systemd.Ready); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "absent"))
	if n, err = systemd.TakeNotifier(); err != nil {
		t.Fatal(err)
	}
	if err := n.Tell(systemd.Ready); err == nil {
		t.Error("nobody listens, and nothing is said of it")
	}
}
