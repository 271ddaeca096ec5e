// Package sockfile is about the files of unix sockets: it tells instances of a
// socket at one path apart, and listens so that the file appears only once it
// can be connected to and disappears only if it is still one's own.
//
// Plugins and kubelets recognise each other's restarts by these files alone.
package sockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// MaxPath is the longest path of a socket in bytes: what unix(7) allows, less the
// dot of the hidden name under which a socket is made.
const MaxPath = 106

// ID tells the instances of a socket file apart. An inode number alone is
// reused at once by the next file; the modification time is that of bind(2),
// which chmod and rename leave alone. A nil ID stands for no socket.
type ID struct {
	info os.FileInfo
}

// Identify returns the identity of the socket at path: nil when nothing, or
// something else, is there.
func Identify(path string) (*ID, error) {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case fi.Mode()&os.ModeSocket == 0:
		return nil, nil
	}
	return &ID{fi}, nil
}

// Same reports whether both are the same instance. No socket is not the same
// as no socket.
func (a *ID) Same(b *ID) bool {
	return a != nil && b != nil && os.SameFile(a.info, b.info) && a.info.ModTime().Equal(b.info.ModTime())
}

// Listener is a listening socket that knows its file.
type Listener struct {
	net.Listener
	path  string
	id    *ID
	close func() error
}

// lockTime bounds the wait for another process that takes a socket in the same
// directory at this moment.
const lockTime = 5 * time.Second

// Check reports why Listen would refuse path whoever listens there now, and changes nothing: for
// whoever has much to begin before it can listen.
func Check(path string) error {
	err := possible(path)
	if err == nil {
		_, err = present(path)
	}
	if err != nil {
		return fmt.Errorf("listening on %q: %w", path, err)
	}
	return nil
}

// possible reports what keeps every socket from path.
func possible(path string) error {
	if len(path) > MaxPath {
		return fault.Invalid.Errorf("the path has %d bytes, and %d are the most: choose a shorter directory", len(path), MaxPath)
	}
	_, err := os.Stat(filepath.Dir(path) + "/.") // which a file does not have
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: make the directory first", err)
	}
	return err
}

// Listen puts a listening socket, readable by its owner alone, at path, an
// absolute path of at most 106 bytes, in one step: a peer that saw it between
// bind(2) and listen(2) would be refused the connection. What a killed
// predecessor left at path is replaced; a socket that somebody serves is refused
// with fault.AlreadyExists, and so is another kind of file. Of several processes
// that listen at one path at the same time, one succeeds.
func Listen(path string) (*Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", path, err)
	}
	return l, nil
}

func listen(path string) (*Listener, error) {
	if err := possible(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	// "/." so that a directory that is gone by now is not made as a file.
	lock, err := flock.Acquire(ctx, filepath.Dir(path)+"/.", flock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	// The name is always the same, so that what a crash leaves here is replaced
	// at the next start; the kubelet ignores names with a dot.
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := errors.Join(vacate(path), vacate(hidden)); err != nil {
		return nil, err
	}
	made, err := (&net.ListenConfig{Control: Private}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, err
	}
	inner := made.(*net.UnixListener)
	inner.SetUnlinkOnClose(false) // by then the path may be another's
	err = os.Chmod(hidden, 0o600) // where Private does nothing
	var id *ID
	if err == nil {
		id, err = Identify(hidden)
	}
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return nil, errors.Join(err, inner.Close(), os.Remove(hidden))
	}
	l := &Listener{Listener: inner, path: path, id: id}
	l.close = sync.OnceValue(func() error { return errors.Join(l.remove(), inner.Close()) })
	return l, nil
}

// vacate removes a stale socket. A rename over it would hide its end from who
// watches the directory.
func vacate(path string) error {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fault.AlreadyExists.Errorf("another process serves this socket: stop it, or choose another path")
	}
	is, err := present(path)
	if err != nil || !is {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the stale socket: %w", err)
	}
	return nil
}

// present reports whether a socket is at path, whether or not anybody listens at it.
func present(path string) (bool, error) {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case fi.Mode()&os.ModeSocket == 0:
		return false, fault.AlreadyExists.Errorf("the path exists and is not a socket: move it away")
	}
	return true, nil
}

// Addr returns the address of the path.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Path returns the path of the socket.
func (l *Listener) Path() string { return l.path }

// Present reports whether the file at the path is still this listener's.
func (l *Listener) Present() bool {
	now, err := Identify(l.path)
	return err == nil && now.Same(l.id)
}

// Close stops listening and removes the file if it is still this listener's.
// It may be called more than once.
func (l *Listener) Close() error { return l.close() }

func (l *Listener) remove() error {
	if !l.Present() {
		return nil
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
