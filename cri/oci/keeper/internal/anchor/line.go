package anchor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Entry is what the anchor holds for the keeper under an id.
type Entry struct {
	ID string `json:"id"`
	// PID is a child whose exit is to be kept; 0 without one.
	PID int `json:"pid,omitempty"`
	// Starting says that a child is about to be, so that no stranger is reaped.
	Starting bool `json:"starting,omitempty"`
	// Data means nothing to the anchor.
	Data json.RawMessage `json:"data,omitempty"`
	// Files are descriptors of the process that has the entry, which are its to close.
	Files []int `json:"files,omitempty"`
}

// MaxFiles is the most descriptors of an entry.
const MaxFiles = 8

// The kinds of messages. List is answered by one for each entry and one
// without, Peek and Kept by one; the others have no answer.
const (
	opPut     = "put"
	opDrop    = "drop"
	opServing = "serving"
	opProgram = "program"
	opRelease = "release"
	opPeek    = "peek"
	opList    = "list"
	opKept    = "kept" // since version 2
)

// version is of the line. The anchor says its own at the end of a list; one that
// says none is of version 1, and may be asked for no more than that had.
const version = 2

type message struct {
	Op      string `json:"op"`
	Entry   *Entry `json:"entry,omitempty"`
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	Code    int32  `json:"code,omitempty"`
	Gone    bool   `json:"gone,omitempty"` // no child of the anchor
	Kept    bool   `json:"kept,omitempty"` // the last put of the entry came whole
	Version int    `json:"version,omitempty"`

	cut bool // descriptors are missing: this process could take no more
}

// maxPacket bounds a message. An entry's data is a command line and some paths.
const maxPacket = 64 << 10

// errNotUnderstood is a message that this side makes nothing of.
var errNotUnderstood = errors.New("not understood")

func send(fd int, m *message, files []int) error {
	if m.Entry != nil && m.Entry.Files != nil {
		e := *m.Entry
		e.Files = nil // they mean nothing elsewhere
		m = &message{Op: m.Op, Entry: &e}
	}
	packet, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(packet) > maxPacket || len(files) > MaxFiles {
		return fault.Exhausted.Errorf("an entry of %d bytes and %d descriptors is too large", len(packet), len(files))
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	for {
		err := unix.Sendmsg(fd, packet, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive returns the next message. The other side's end is an error. Of a message
// that was cut no descriptor is left.
func receive(fd int, buf []byte) (*message, []int, error) {
	rights := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, rn, flags, _, err := unix.Recvmsg(fd, buf, rights, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, rn, flags, _, err = unix.Recvmsg(fd, buf, rights, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, unix.EPIPE
	}
	files, err := parseRights(rights[:rn])
	m := &message{cut: flags&unix.MSG_CTRUNC != 0}
	if m.cut {
		closeAll(files)
		files = nil
	}
	if err != nil || flags&unix.MSG_TRUNC != 0 || json.Unmarshal(buf[:n], m) != nil || m.lacksEntry() {
		return nil, files, errNotUnderstood
	}
	return m, files, nil
}

func (m *message) lacksEntry() bool {
	return m.Entry == nil && (m.Op == opPut || m.Op == opDrop || m.Op == opKept)
}

func parseRights(b []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing was written through it here
	}
}

// Line is the keeper's end. Once the anchor is gone every call fails; Gone tells.
// It is safe for concurrent use.
type Line struct {
	fd      int
	mu      sync.Mutex // of a question and its answer
	version int        // the anchor's, once List was answered
}

// NewLine returns the line on a descriptor, LineFD in a keeper.
func NewLine(fd int) *Line {
	unix.CloseOnExec(fd)
	return &Line{fd: fd}
}

// FD is the descriptor of the line, which hangs up when the anchor is gone.
func (l *Line) FD() int { return l.fd }

// Gone reports whether the anchor is.
func (l *Line) Gone() bool {
	poll := []unix.PollFd{{Fd: int32(l.fd)}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
}

// Put has the anchor hold copies of the entry's descriptors, and nothing that it
// held under the id before. Kept tells whether it could.
func (l *Line) Put(e Entry) error { return l.tell(&message{Op: opPut, Entry: &e}, e.Files) }

// Drop has the anchor let go of the entry, and reap its child if it has ended.
func (l *Line) Drop(id string) error { return l.tell(&message{Op: opDrop, Entry: &Entry{ID: id}}, nil) }

// Serving says that the keeper answers calls. One that ends before is started
// again more and more slowly, and the first one of an anchor not at all.
func (l *Line) Serving() error { return l.tell(&message{Op: opServing}, nil) }

// Program says which program the next keeper is. If that does not come up the last
// one that served is started instead.
func (l *Line) Program(path string) error { return l.tell(&message{Op: opProgram, Program: path}, nil) }

// Release says that this keeper is the last.
func (l *Line) Release() error { return l.tell(&message{Op: opRelease}, nil) }

func (l *Line) tell(m *message, files []int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return send(l.fd, m, files)
}

// Kept returns fault.Exhausted when the last Put of the entry did not come whole:
// the anchor has run out of descriptors, and holds what it held before. One of
// version 1 cannot tell.
func (l *Line) Kept(id string) error {
	m, err := l.ask(&message{Op: opKept, Entry: &Entry{ID: id}}, 2)
	if err != nil || m == nil || m.Kept {
		return err
	}
	return fault.Exhausted.Errorf("the anchor has no descriptors left for %q", id)
}

// Peek asks whether the process of a pidfd, a child of the anchor by that id, has
// ended, and with which code: see child.PeekFD. An anchor of version 1 looks at the
// id alone.
func (l *Line) Peek(pid, pidfd int) (ended bool, code int32, err error) {
	m, err := l.ask(&message{Op: opPeek, PID: pid}, 2, pidfd)
	if err == nil && m == nil {
		m, err = l.ask(&message{Op: opPeek, PID: pid}, 1)
	}
	if err != nil {
		return false, 0, err
	}
	if m.Gone {
		return false, 0, unix.ECHILD
	}
	return m.Ended, m.Code, nil
}

// ask returns the answer to a question, or nil where the anchor is older than the
// version that has it.
func (l *Line) ask(m *message, since int, files ...int) (*message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if max(l.version, 1) < since {
		return nil, nil
	}
	if err := send(l.fd, m, files); err != nil {
		return nil, err
	}
	answer, files, err := receive(l.fd, make([]byte, 4<<10))
	closeAll(files)
	return answer, err
}

// List returns every entry, with descriptors of the caller's own. One that this
// process has too few left for comes without any.
func (l *Line) List() (list []Entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := send(l.fd, &message{Op: opList}, nil); err != nil {
		return nil, err
	}
	buf := make([]byte, maxPacket)
	for {
		m, files, err := receive(l.fd, buf)
		if errors.Is(err, errNotUnderstood) {
			closeAll(files)
			continue
		}
		if err != nil {
			return list, err
		}
		if m.Entry == nil {
			l.version = m.Version
			return list, nil
		}
		m.Entry.Files = files
		list = append(list, *m.Entry)
	}
}

// Become makes the calling keeper, whose anchor is gone, the anchor: args are
// the arguments of that role, to which the descriptors of what it takes along
// are added. It returns on an error only. Nothing else may start programs
// meanwhile: hold syscall.ForkLock.
func Become(args []string, entries []Entry) error {
	fd, err := unix.MemfdCreate("nodekit-anchor", 0)
	if err != nil {
		return err
	}
	text, err := json.Marshal(slices.DeleteFunc(entries, func(e Entry) bool { return !inherited(e.Files) }))
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "entries")
	if _, err := f.WriteAt(text, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if !inherited([]int{LockFD}) {
		return fmt.Errorf("handing on the lock: %w", unix.EBADF)
	}
	args = append([]string{"nodekit-keeper"}, args...)
	err = syscall.Exec("/proc/self/exe", append(args, "--lock", fmt.Sprint(LockFD), "--handed", fmt.Sprint(fd)), os.Environ())
	return errors.Join(err, f.Close())
}

// inherited makes descriptors outlive execve(2), and reports whether all are open:
// one entry that is wrong must not take the others along.
func inherited(fds []int) bool {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return false
		}
	}
	return true
}
