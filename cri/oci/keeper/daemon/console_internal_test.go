package daemon

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// The socket of a console that was taken over is held, and works, until it is given
// up, whatever is collected meanwhile.
func TestConsoleIsTakenOver(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "console")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	hold := s.escrow.newHolding("c", record{Start: wire.StartRequest{Command: wire.Command{Dir: dir, Console: "console"}}})
	if err := hold.change(func(h *content) { h.set(roleConsole, fd) }); err != nil {
		t.Fatal(err)
	}
	con, err := restoreConsole(hold)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	held := hold.get(roleConsole)
	if on, err := unix.GetsockoptInt(held, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		t.Errorf("what is held as the console is none: %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := wire.Send(conn.(*net.UnixConn), "tty", null); err != nil {
		t.Fatal(err)
	}
	tty, err := con.terminal()
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	s.endConsole(hold, con)
	if hold.get(roleConsole) >= 0 {
		t.Error("it is still held")
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("it is still open somewhere")
	}
}
