package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// console is the socket to which the OCI runtime sends a terminal.
type console struct {
	listener *net.UnixListener
	path     string
	fd       int // of the socket, while the listener is open
}

func newConsole(c *wire.Command) (*console, error) {
	l, err := wire.Listen(c.Dir, c.Console)
	if err != nil {
		return nil, fmt.Errorf("opening console socket: %w", err)
	}
	return consoleOf(l, c)
}

// consoleOf returns the console of a socket that is already listening.
func consoleOf(l *net.UnixListener, c *wire.Command) (*console, error) {
	raw, err := l.SyscallConn()
	con := &console{listener: l, path: filepath.Join(c.Dir, c.Console)}
	if err == nil {
		err = raw.Control(func(fd uintptr) { con.fd = int(fd) })
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return con, nil
}

// terminal returns the terminal that the OCI runtime has sent. The runtime has exited by
// now, so the terminal is either there or never comes.
func (c *console) terminal() (*os.File, error) {
	if err := c.listener.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal: %w", err)
	}
	defer conn.Close()
	name, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*wire.MaxFiles))
	_, rn, flags, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal: %w", err)
	}
	fds, err := wire.ParseDescriptors(rights[:rn])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0:
		err = fault.Exhausted.Errorf("receiving the terminal: no descriptors are left")
	case len(fds) != 1:
		err = fault.Internal.Errorf("receiving the terminal: the runtime sent %d descriptors", len(fds))
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	// Non-blocking, so that it is read by the poller and not by a thread.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func (c *console) close() {
	_ = c.listener.Close()
	_ = os.Remove(c.path)
}
