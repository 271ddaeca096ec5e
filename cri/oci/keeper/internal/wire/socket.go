package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// Send writes one message with the files' descriptors.
func Send(c *net.UnixConn, msg any, files ...*os.File) error {
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
		fds, err := Descriptors(files)
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

// Descriptors returns the files' descriptors without changing them to blocking mode, as
// os.File.Fd would. They stay valid while the files are open.
func Descriptors(files []*os.File) (fds []int, err error) {
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

// Blocking makes descriptors suitable as standard streams of a program, which expects
// reads and writes to block.
func Blocking(fds []int) error {
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, false); err != nil {
			return err
		}
	}
	return nil
}

// MaxFiles is the maximum number of descriptors in one message.
const MaxFiles = 3

// Receive reads one message and its descriptors, which the caller must close. The error
// is fault.Exhausted if there were more than this process can receive.
func Receive(c *net.UnixConn, into any) (files []*os.File, err error) {
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, rn, flags, _, err := c.ReadMsgUnix(head[:], rights)
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
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fault.Exhausted.Errorf("no descriptors are left for those that came with a message")
	}
	if err != nil {
		CloseAll(files)
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
	fds, err := ParseDescriptors(b)
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return files, err
}

// ParseDescriptors returns the descriptors in a control message.
func ParseDescriptors(b []byte) (fds []int, err error) {
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

// CloseAll closes the files that are not nil.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // nothing was written through it here
		}
	}
}

// WriteFrame writes one frame of an attached connection.
func WriteFrame(w io.Writer, kind byte, payload []byte) error {
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	bufs := net.Buffers{head[:], payload}
	_, err := bufs.WriteTo(w)
	return err
}

// ReadFrame reads one frame; its payload lies in buf.
func ReadFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
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

// Listen listens on the unix socket dir/name, even if that path is too long for a socket
// address, by going through the directory's descriptor. An existing socket is replaced.
func Listen(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	made, err := (&net.ListenConfig{Control: sockfile.Private}).Listen(context.Background(), "unix", viaDescriptor(d, name).Name)
	if err != nil {
		return nil, err
	}
	l := made.(*net.UnixListener)
	l.SetUnlinkOnClose(false) // the address may be another file once d is closed
	return l, nil
}

// Dial connects to the socket dir/name, addressed in the same way as by Listen.
func Dial(dir, name string) (*net.UnixConn, error) {
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

// ResizeTerminal sets the size of a terminal.
func ResizeTerminal(tty *os.File, columns, rows uint16) error {
	conn, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	return errors.Join(err, serr)
}

// Launch is the word that a launcher waits for on its standard input.
const Launch = "go\n"

// Ready is the line that a keeper writes once it serves. Any other line is the kind and
// text of an error.
const Ready = "ready"

// AwaitReady reads the line that a new keeper writes.
func AwaitReady(r io.Reader) error {
	line, err := bufio.NewReader(r).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	switch {
	case line == Ready:
		return nil
	case line != "":
		for _, kind := range []fault.Kind{fault.AlreadyExists, fault.FailedPrecondition, fault.Invalid} {
			if text, ok := strings.CutPrefix(line, string(kind)+" "); ok {
				return kind.Wrap(errors.New(text))
			}
		}
		return errors.New(line)
	case errors.Is(err, io.EOF):
		return fault.Unavailable.Errorf("it ended without a word")
	}
	return err
}
