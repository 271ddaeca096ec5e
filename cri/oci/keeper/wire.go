package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Protocol is the version of the protocol that this package speaks. A keeper
// answers every version up to its own.
const Protocol = 1

// One connection carries one call: a request, one or more replies and, for
// attach, frames after the first reply. Requests and replies are JSON after a
// big-endian 32-bit length; descriptors ride on the length. Closing the
// connection cancels exec, wait, watch and attach, and nothing else.
const (
	opHello    = "hello"
	opStart    = "start"
	opRuntime  = "runtime"
	opSignal   = "signal"
	opWait     = "wait"
	opList     = "list"
	opWatch    = "watch"
	opAck      = "ack"
	opRemove   = "remove"
	opReopen   = "reopen"
	opExec     = "exec"
	opAttach   = "attach"
	opShutdown = "shutdown"
)

// maxMessage bounds what one side makes the other allocate.
const maxMessage = 8 << 20

type request struct {
	Version int            `json:"version"`
	Op      string         `json:"op"`
	ID      string         `json:"id,omitempty"`
	Signal  int            `json:"signal,omitempty"`
	Start   *StartRequest  `json:"start,omitempty"`
	Command *Command       `json:"command,omitempty"`
	Attach  *attachRequest `json:"attach,omitempty"`
}

type reply struct {
	Kind   fault.Kind `json:"kind,omitempty"` // of an error
	Error  string     `json:"error,omitempty"`
	Hello  *Hello     `json:"hello,omitempty"`
	Status *Status    `json:"status,omitempty"`
	List   []Status   `json:"list,omitempty"`
	Exit   *Exit      `json:"exit,omitempty"`
	Output string     `json:"output,omitempty"`
}

// Hello is who answers.
type Hello struct {
	Protocol int `json:"protocol"`
	PID      int `json:"pid"`
}

// Command is an invocation of the OCI runtime.
type Command struct {
	Args []string `json:"args"` // Args[0] is the program's absolute path
	Dir  string   `json:"dir"`  // its working directory
	// PIDFile is the file, relative to Dir, into which the runtime writes the
	// process id of what it started.
	PIDFile string `json:"pidFile,omitempty"`
	// Console is the socket, relative to Dir, to which the runtime sends the
	// terminal of what it started. Empty means no terminal.
	Console string `json:"console,omitempty"`
}

// StartRequest says how a container is started.
type StartRequest struct {
	Command Command `json:"command"`
	// Log is the container's log file; empty means that its output is only seen
	// by those who attach.
	Log       string `json:"log,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`     // keep its standard input open
	StdinOnce bool   `json:"stdinOnce,omitempty"` // close it after the first attach
	// OOMFile is read when the container ends: its line "oom_kill N" says
	// whether the kernel killed a process for memory.
	OOMFile string `json:"oomFile,omitempty"`
}

// Status is what the keeper knows of a container that it started.
type Status struct {
	ID   string `json:"id"`
	PID  int    `json:"pid,omitempty"` // 0 once ended
	Exit *Exit  `json:"exit,omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	ID   string    `json:"id"`
	Code int32     `json:"code"` // 128+n for death by signal n
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom,omitempty"`
}

type attachRequest struct {
	Stdin bool `json:"stdin,omitempty"`
}

// A frame of an attached connection is its kind, the payload's length and the
// payload.
const (
	frameStdin      = 'i' // client to keeper
	frameStdinClose = 'c' // client to keeper, no payload
	frameResize     = 'r' // client to keeper: columns and rows, 16 bits each
	frameStdout     = 'o' // keeper to client
	frameStderr     = 'e' // keeper to client
	frameFault      = 'f' // keeper to client, the last one: why it stops early
	frameEnd        = 'x' // keeper to client, the last one: the output has ended
	maxFrame        = 64 << 10
)

func send(c *net.UnixConn, msg any, files ...*os.File) error {
	body, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fault.Exhausted.Errorf("a message of %d bytes is longer than %d", len(body), maxMessage)
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	packet = append(packet, body...)
	var rights []byte
	if len(files) > 0 {
		fds, err := descriptors(files)
		if err != nil {
			return err
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(packet, rights, nil)
	if err == nil && n < len(packet) {
		_, err = c.Write(packet[n:])
	}
	return err
}

// descriptors returns the files' descriptors without changing their mode, as
// os.File.Fd would. They stay valid while the files are open.
func descriptors(files []*os.File) (fds []int, err error) {
	for _, f := range files {
		conn, err := f.SyscallConn()
		if err == nil {
			err = conn.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return nil, err
		}
	}
	return fds, nil
}

// blocking makes descriptors fit to be a program's standard streams, which
// expects reads and writes to block.
func blocking(fds []int) error {
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, false); err != nil {
			return err
		}
	}
	return nil
}

// maxFiles is the most descriptors that ride on one message.
const maxFiles = 3

func receive(c *net.UnixConn, into any) (files []*os.File, err error) {
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rn, _, _, err := c.ReadMsgUnix(head[:], rights)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	files, err = parseRights(rights[:rn])
	if err == nil {
		_, err = io.ReadFull(c, head[n:])
	}
	if err == nil {
		err = readBody(c, binary.BigEndian.Uint32(head[:]), into)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func readBody(r io.Reader, size uint32, into any) error {
	if size > maxMessage {
		return fault.Invalid.Errorf("a message of %d bytes is longer than %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

func parseRights(b []byte) (files []*os.File, err error) {
	fds, err := parseDescriptors(b)
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return files, err
}

func parseDescriptors(b []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, fmt.Errorf("parsing descriptors: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, fmt.Errorf("parsing descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // nothing was written through it here
		}
	}
}

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	bufs := net.Buffers{head[:], payload}
	_, err := bufs.WriteTo(w)
	return err
}

func readFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if int(size) > len(buf) {
		return 0, nil, fault.Invalid.Errorf("a frame of %d bytes is longer than %d", size, len(buf))
	}
	_, err = io.ReadFull(r, buf[:size])
	return head[0], buf[:size], err
}

// failure turns an error into a reply, and err turns it back.
func failure(err error) reply { return reply{Kind: fault.Of(err), Error: err.Error()} }

func (r reply) err() error {
	if r.Kind == "" {
		return nil
	}
	return r.Kind.Wrap(errors.New(r.Error))
}
