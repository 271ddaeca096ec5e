package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// copies holds sealed copies of the programs that the keeper runs. A container must not
// be able to write to the OCI runtime that starts it (CVE-2019-5736), so crun makes and
// executes such a copy of itself at every run: a sixth of a container's start (measured).
// If it is run from a sealed copy, it skips that. The zero value is ready.
type copies struct {
	mu   sync.Mutex
	held map[string]*sealed // by path
}

// sealed is a copy of a program in the state described by from.
type sealed struct {
	fd   int // -1 if the program cannot or need not be copied
	from unix.Stat_t
}

const (
	// maxSealed bounds the memory of a copy. Larger programs, such as runc, protect
	// themselves in other ways and gain nothing.
	maxSealed = 4 << 20
	// maxCopies bounds the number of copies. A node has few OCI runtimes.
	maxCopies = 8
	elf       = "\x7fELF"
)

// run has start execute the program from its copy, or the original if there is no copy or
// that fails: a policy may forbid it, or somebody may have spoiled the copy. A copy that
// fails where the original succeeds is not tried again. Copies are kept while run
// executes, so that their descriptors are not reused for other files; forks of one
// process wait for each other anyway.
func (c *copies) run(program string, start func(path string) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := c.path(program)
	if path != program && start(path) == nil {
		return nil
	}
	err := start(program)
	if s := c.held[program]; path != program && err == nil {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
	return err
}

// path returns the path to execute the program from: its copy or, if there can be none,
// the program itself. c.mu is held.
func (c *copies) path(program string) string {
	var now unix.Stat_t
	if !filepath.IsAbs(program) || unix.Stat(program, &now) != nil || unix.Access(program, unix.X_OK) != nil {
		return program // executing it will show what is wrong
	}
	s := c.held[program]
	if s == nil || !s.copies(&now) {
		s = c.renew(program, s, &now)
	}
	if s.fd < 0 {
		return program
	}
	// Through this process's descriptor: the child may have other descriptors by then.
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd)
}

// copies reports whether s is a copy of the file in its present state.
func (s *sealed) copies(now *unix.Stat_t) bool {
	return s.from.Dev == now.Dev && s.from.Ino == now.Ino && s.from.Size == now.Size && s.from.Mtim == now.Mtim && s.from.Ctim == now.Ctim
}

// renew copies the program, in place of an older copy. c.mu is held.
func (c *copies) renew(program string, old *sealed, now *unix.Stat_t) *sealed {
	if c.held == nil {
		c.held = map[string]*sealed{}
	}
	if old == nil && len(c.held) >= maxCopies {
		return &sealed{fd: -1}
	}
	if old != nil && old.fd >= 0 {
		_ = unix.Close(old.fd)
	}
	s := &sealed{fd: -1, from: *now}
	if now.Size <= maxSealed {
		fd, err := seal(program)
		switch {
		case err == nil:
			s.fd = fd
		case !errors.Is(err, errNoCopy): // out of descriptors or memory: the next start tries again
			delete(c.held, program)
			return s
		}
	}
	c.held[program] = s
	return s
}

// errNoCopy is the error for a program whose copy would not behave the same.
var errNoCopy = errors.New("a copy would not be the same program")

// seal returns a descriptor of a copy that can no longer be written to.
func seal(program string) (fd int, err error) {
	file, err := os.Open(program)
	if err != nil {
		return -1, err
	}
	defer file.Close()
	// With SELinux, the label of the executed file decides on the domain of the process.
	if _, err := unix.Fgetxattr(int(file.Fd()), "security.selinux", nil); err == nil {
		return -1, errNoCopy
	}
	kind := make([]byte, len(elf))
	if _, err := file.ReadAt(kind, 0); err != nil || string(kind) != elf { // a script gets its own path
		return -1, errNoCopy
	}
	memory, err := newMemory(filepath.Base(program))
	if err != nil {
		return -1, err
	}
	defer memory.Close()
	if n, err := io.Copy(memory, io.LimitReader(file, maxSealed+1)); err != nil || n > maxSealed {
		return -1, errors.Join(err, errNoCopy)
	}
	// Exactly these four: OCI runtimes look for them.
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, err
	}
	// A file that is open for writing cannot be executed.
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", memory.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// newMemory returns a memfd that can be executed, if that is permitted.
func newMemory(name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, every memfd can be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
