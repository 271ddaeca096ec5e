package main

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestServeRuntimeAsService starts the runtime as systemd does a service of
// Type=notify: when it is told to be ready a kubelet gets its answers.
func TestServeRuntimeAsService(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	c := newCLI(t)
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(c.tmp, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	hear := func() string {
		t.Helper()
		if err := told.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		word := make([]byte, 100)
		n, err := told.Read(word)
		if err != nil {
			t.Fatal(err)
		}
		return string(word[:n])
	}
	t.Setenv("NOTIFY_SOCKET", told.LocalAddr().String())
	socket := filepath.Join(c.tmp, "cri.sock")
	p := c.start("serve", "runtime", "--ephemeral", "--endpoint", "unix://"+socket, "--root", filepath.Join(c.tmp, "root"), "--run", filepath.Join(c.tmp, "run"))
	if word := hear(); word != "READY=1" {
		t.Errorf("systemd is told %q first", word)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	runtime, err := client.Dial(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	runtime.Close()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if word := hear(); word != "STOPPING=1" {
		t.Errorf("systemd is told %q at the end", word)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	for _, own := range []string{"notify", "root", "run"} { // files of the runtime stay
		if err := os.RemoveAll(filepath.Join(c.tmp, own)); err != nil {
			t.Error(err)
		}
	}
	c.clean(p.out.String())
}
