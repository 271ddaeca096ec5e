package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/panics"
	"github.com/nodekit-project/nodekit/internal/rawfile"
)

const threadNS = "/proc/thread-self/ns/net"

// Handle is an open network namespace. It keeps the namespace alive until it is
// closed.
type Handle struct {
	file *os.File
}

// ID identifies a network namespace among those that are alive. After the namespace
// is gone the kernel reuses the numbers, often for the next one; use Cookie for what
// is stored for later.
type ID struct {
	Dev, Ino uint64
}

// Create creates a new network namespace, brings its loopback interface up and pins
// it at path, whose directory must exist. If something is already mounted there, the
// error is fault.AlreadyExists; a plain file, such as a crash between the two steps
// leaves, is reused.
func Create(path string) error {
	f, err := rawfile.Open(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("creating network namespace: %w", err)
	}
	f.Close()
	if h, err := Open(path); err == nil {
		h.Close()
		return fault.AlreadyExists.Errorf("creating network namespace: %q is one already", path)
	}
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unsharing the network: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bringing lo up: %w", err)
		}
		return unix.Mount(threadNS, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return fmt.Errorf("creating network namespace %q: %w", path, errors.Join(err, Remove(path)))
	}
	return nil
}

// Pin pins at path a network namespace that somebody else created, for example that
// of a process by "/proc/PID/ns/net", and brings its loopback interface up. As for
// Create, a repetition after a crash must first Remove what is there.
func Pin(namespace, path string) error {
	h, err := Open(namespace)
	if err != nil {
		return err
	}
	defer h.Close()
	f, err := rawfile.Open(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("pinning network namespace: %w", err)
	}
	f.Close()
	if err := h.Do(loopbackUp); err != nil {
		return fmt.Errorf("bringing lo up: %w", errors.Join(err, Remove(path)))
	}
	if err := unix.Mount(namespace, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pinning network namespace %q: %w", path, errors.Join(err, Remove(path)))
	}
	return nil
}

// Remove removes the pin at path, and with it the namespace as soon as nothing else
// refers to it. It succeeds if nothing is there.
func Remove(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing is mounted there, or the path does not exist
		}
		if err != nil {
			return fmt.Errorf("unmounting network namespace %q: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing network namespace: %w", err)
	}
	return nil
}

// Open opens the network namespace at path. If the path does not exist, the error is
// fault.NotFound; if it is not a network namespace, fault.Invalid.
func Open(path string) (*Handle, error) {
	f, err := rawfile.Open(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.NotFound.Errorf("opening network namespace: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fault.Invalid.Errorf("%q is not a network namespace", path)
	}
	return &Handle{file: f}, nil
}

// Current opens the network namespace of the calling goroutine's thread.
func Current() (*Handle, error) {
	fd, err := current()
	if err != nil {
		return nil, fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	return &Handle{file: os.NewFile(uintptr(fd), "the thread's")}, nil
}

// current asks a socket for its namespace. It asks /proc only if the caller may not have
// that (CAP_NET_ADMIN): there the kernel has to make the thread's directory first, which
// costs a process that has just started 30 to 60 µs.
func current() (fd int, err error) {
	fd, err = ofSocket()
	if err != nil {
		fd, err = unix.Open(threadNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

func ofSocket() (fd int, err error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // any socket does
	if err != nil {
		return -1, err
	}
	defer unix.Close(socket)
	return unix.IoctlRetInt(socket, unix.SIOCGSKNS)
}

// CurrentID returns the identity of the network namespace of the calling goroutine's
// thread.
func CurrentID() (ID, error) {
	h, err := Current()
	if err != nil {
		return ID{}, err
	}
	defer h.Close()
	return h.ID()
}

// FD returns the descriptor, which the handle still owns.
func (h *Handle) FD() int { return int(h.file.Fd()) }

// ID returns the namespace's identity.
func (h *Handle) ID() (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(h.FD(), &st); err != nil {
		return ID{}, fmt.Errorf("identifying network namespace %q: %w", h.file.Name(), err)
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Cookie returns a number that, unlike those of ID, the kernel gives to no other
// network namespace until the machine restarts. It enters the namespace to ask.
// Before Linux 5.14 the error is fault.Unimplemented.
func (h *Handle) Cookie() (cookie uint64, err error) {
	err = h.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // any socket does
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, fault.Unimplemented.Errorf("identifying network namespace %q: the kernel gives no cookies: %w", h.file.Name(), err)
	}
	if err != nil {
		return 0, fmt.Errorf("identifying network namespace %q: %w", h.file.Name(), err)
	}
	return cookie, nil
}

// Close closes the handle.
func (h *Handle) Close() error { return h.file.Close() }

// Do calls fn in the namespace and returns its error. fn runs on another goroutine,
// locked to its thread: goroutines that fn starts run outside of the namespace;
// processes that it starts and sockets that it opens are inside. A panic in fn
// continues in the caller, as a *panics.Panic that knows where it began, and so does
// runtime.Goexit, which t.FailNow calls.
func (h *Handle) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %q: %w", h.file.Name(), err)
		}
		return fn()
	})
}

// Visit calls fn in the network namespace that a descriptor refers to, on the calling
// goroutine's own thread, and takes the thread back, also after a panic. Without another
// goroutine, which the scheduler likes to start on another processor, it is faster than
// Handle.Do: use it to open sockets, and nothing that waits.
//
// If the thread cannot return, which takes the kernel a few bytes and the caller its
// privileges, the process ends. Whatever this goroutine did next would happen in the wrong
// namespace; that of Do ends with its thread instead, so fn may be anybody's there.
func Visit(fd int, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	origin, err := current()
	if err != nil {
		return fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	defer unix.Close(origin)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	defer func() {
		if err := unix.Setns(origin, unix.CLONE_NEWNET); err != nil {
			fmt.Fprintln(os.Stderr, "leaving a network namespace:", err)
			os.Exit(lost)
		}
	}()
	return fn()
}

// lost is the exit status of a process that cannot leave a namespace, that of a panic.
const lost = 2

// Do calls fn in the network namespace at path, as Handle.Do does.
func Do(path string, fn func() error) error {
	h, err := Open(path)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Do(fn)
}

// onOwnThread runs fn on a goroutine locked to a thread, and then returns the thread
// to the caller's namespace.
func onOwnThread(fn func() error) error {
	origin, err := Current()
	if err != nil {
		return err
	}
	defer origin.Close()
	type outcome struct {
		err      error
		panicked *panics.Panic
		exited   bool // by runtime.Goexit
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread()
		out := outcome{exited: true}
		defer func() {
			if p := recover(); p != nil {
				out.panicked = panics.Of(p)
			}
			if unix.Setns(origin.FD(), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			} // otherwise the thread ends with this goroutine
			done <- out
		}()
		out.err = fn()
		out.exited = false
	}()
	out := <-done
	switch {
	case out.panicked != nil:
		panic(out.panicked)
	case out.exited:
		runtime.Goexit()
	}
	return out.err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
