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
	// PID is a child whose exit must be kept; 0 for none.
	PID int `json:"pid,omitempty"`
	// Starting says that a child is about to be started, so that no stranger is reaped.
	Starting bool `json:"starting,omitempty"`
	// Data is opaque to the anchor.
	Data json.RawMessage `json:"data,omitempty"`
	// Files are descriptors of the process that has the entry, which must close them.
	Files []int `json:"files,omitempty"`
}

// MaxFiles is the maximum number of descriptors of an entry.
const MaxFiles = 8

// The kinds of messages. The answer to List is one message for each entry and one
// without, to Peek and Kept a single one; the others have no answer.
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

// version is that of the line. The anchor reports its own at the end of a list; one that
// reports none has version 1 and must be asked only what that supports.
const version = 2

type message struct {
	Op      string `json:"op"`
	Entry   *Entry `json:"entry,omitempty"`
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	Code    int32  `json:"code,omitempty"`
	Gone    bool   `json:"gone,omitempty"` // the process is not a child of the anchor
	Kept    bool   `json:"kept,omitempty"` // the last put of the entry arrived complete
	Version int    `json:"version,omitempty"`

	cut bool // descriptors are missing: this process could receive no more
}

// maxPacket bounds a message. An entry's data is a command line and some paths.
const maxPacket = 64 << 10

// errNotUnderstood is returned for a message that this side does not understand.
var errNotUnderstood = errors.New("not understood")

func send(fd int, m *message, files []int) error {
	if m.Entry != nil && m.Entry.Files != nil {
		e := *m.Entry
		e.Files = nil // they are meaningless in another process
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

// receive returns the next message. It is an error if the other side has closed. The
// descriptors of a truncated message are closed.
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

// Line is the keeper's end of the line. Once the anchor is gone, every call fails; see
// Gone. It is safe for concurrent use.
type Line struct {
	fd      int
	mu      sync.Mutex // held for a question and its answer
	version int        // the anchor's, once List was answered
}

// NewLine returns the line on a descriptor; in a keeper, that is LineFD.
func NewLine(fd int) *Line {
	unix.CloseOnExec(fd)
	return &Line{fd: fd}
}

// FD returns the descriptor of the line, which hangs up when the anchor is gone.
func (l *Line) FD() int { return l.fd }

// Gone reports whether the anchor is gone.
func (l *Line) Gone() bool {
	poll := []unix.PollFd{{Fd: int32(l.fd)}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
}

// Put has the anchor hold copies of the entry's descriptors, and drop what it held under
// the id before. Kept tells whether it could.
func (l *Line) Put(e Entry) error { return l.tell(&message{Op: opPut, Entry: &e}, e.Files) }

// Drop has the anchor drop the entry and reap its child if that has ended.
func (l *Line) Drop(id string) error { return l.tell(&message{Op: opDrop, Entry: &Entry{ID: id}}, nil) }

// Serving reports that the keeper answers calls. A keeper that ends before is restarted
// with growing pauses; if it is the first one of an anchor, it is not restarted.
func (l *Line) Serving() error { return l.tell(&message{Op: opServing}, nil) }

// Program sets the program of the next keeper. If that does not come up, the last one
// that served is started instead.
func (l *Line) Program(path string) error { return l.tell(&message{Op: opProgram, Program: path}, nil) }

// Release says that no keeper follows this one.
func (l *Line) Release() error { return l.tell(&message{Op: opRelease}, nil) }

func (l *Line) tell(m *message, files []int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return send(l.fd, m, files)
}

// Kept returns fault.Exhausted if the last Put of the entry arrived incomplete: the
// anchor has run out of descriptors, and holds what it held before. An anchor of version
// 1 cannot tell.
func (l *Line) Kept(id string) error {
	m, err := l.ask(&message{Op: opKept, Entry: &Entry{ID: id}}, 2)
	if err != nil || m == nil || m.Kept {
		return err
	}
	return fault.Exhausted.Errorf("the anchor has no descriptors left for %q", id)
}

// Peek asks whether the process of a pidfd, a child of the anchor with this id, has
// ended, and with which code: see child.PeekFD. An anchor of version 1 uses only the id.
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

// ask returns the answer to a question, or nil if the anchor's version is older than
// since.
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

// List returns all entries, with descriptors of the caller's own. An entry comes without
// descriptors if this process has too few left for them.
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

// Become makes the calling keeper, whose anchor is gone, the anchor. args are the
// arguments of that role, to which the descriptors of lock and entries are added. It
// returns only on an error. Nothing else may start programs meanwhile: hold
// syscall.ForkLock.
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

// inherited makes descriptors survive execve(2), and reports whether all are open: one
// faulty entry must not affect the others.
func inherited(fds []int) bool {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return false
		}
	}
	return true
}
