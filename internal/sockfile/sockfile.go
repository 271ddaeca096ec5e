// Package sockfile handles the files of unix sockets: it distinguishes instances of a
// socket at one path, and listens so that the file appears only once it accepts
// connections and disappears only if it is still one's own.
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

// MaxPath is the maximum length of a socket's path in bytes: what unix(7) allows,
// less the dot of the hidden name under which a socket is created.
const MaxPath = 106

// ID distinguishes instances of a socket file. An inode number alone is reused at
// once by the next file; the modification time is that of bind(2), and chmod and
// rename do not change it. A nil ID means no socket.
type ID struct {
	info os.FileInfo
}

// Identify returns the identity of the socket at path; nil if there is nothing, or
// something else.
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

// Same reports whether both are the same instance. Two nil IDs are not the same.
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

// lockTime bounds the wait for another process that is creating a socket in the same
// directory.
const lockTime = 5 * time.Second

// Check reports why Listen would refuse path even if nobody listens there, and
// changes nothing. It is for callers that have much to start before they can listen.
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

// possible reports what prevents any socket at path.
func possible(path string) error {
	if len(path) > MaxPath {
		return fault.Invalid.Errorf("the path has %d bytes, and %d are the most: choose a shorter directory", len(path), MaxPath)
	}
	_, err := os.Stat(filepath.Dir(path) + "/.") // which fails for a file
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: make the directory first", err)
	}
	return err
}

// Listen puts a listening socket that only its owner can access at path, an absolute
// path of at most 106 bytes, in one step: a peer that saw it between bind(2) and
// listen(2) would be refused. What a killed predecessor left at path is replaced; if
// somebody serves the socket, or if the file is of another kind, the error is
// fault.AlreadyExists. Of several processes that listen at one path at the same time,
// one succeeds.
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
	// "/." so that a directory that is gone by now is not created as a file.
	lock, err := flock.Acquire(ctx, filepath.Dir(path)+"/.", flock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	// The name is always the same, so that what a crash leaves here is replaced at
	// the next start; the kubelet ignores names that begin with a dot.
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := errors.Join(vacate(path), vacate(hidden)); err != nil {
		return nil, err
	}
	made, err := (&net.ListenConfig{Control: Private}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, err
	}
	inner := made.(*net.UnixListener)
	inner.SetUnlinkOnClose(false) // by then the path may belong to another socket
	err = os.Chmod(hidden, 0o600) // for systems on which Private does nothing
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

// vacate removes a stale socket. A rename over it would hide its end from watchers of
// the directory.
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
