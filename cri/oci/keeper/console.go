package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// listenIn listens on the unix socket dir/name, also where that path is too
// long for a socket address: it goes by way of the directory's descriptor. A
// socket that is there already is replaced.
func listenIn(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", viaDescriptor(d, name))
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the address means another file once d is closed
	return l, os.Chmod(filepath.Join(dir, name), 0o600)
}

func dialIn(dir, name string) (*net.UnixConn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return net.DialUnix("unix", nil, viaDescriptor(d, name))
}

func viaDescriptor(dir *os.File, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)}
}

// console is the socket to which the OCI runtime sends a terminal.
type console struct {
	listener *net.UnixListener
	path     string
}

func newConsole(c *Command) (*console, error) {
	l, err := listenIn(c.Dir, c.Console)
	if err != nil {
		return nil, fmt.Errorf("opening console socket: %w", err)
	}
	return &console{l, filepath.Join(c.Dir, c.Console)}, nil
}

// terminal returns the terminal that the runtime has sent. The runtime has
// ended by now, so it is there or never comes.
func (c *console) terminal() (*os.File, error) {
	if err := c.listener.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal: %w", err)
	}
	defer conn.Close()
	name, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, rn, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal: %w", err)
	}
	fds, err := parseDescriptors(rights[:rn])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, fault.Internal.Errorf("receiving the terminal: the runtime sent %d descriptors", len(fds))
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
