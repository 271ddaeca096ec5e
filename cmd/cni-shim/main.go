// Command cni-shim is a CNI plugin that forwards its calls to a daemon (cni.Server). A
// runtime executes it under the plugin's name:
//
//	install cni-shim /opt/cni/bin/my-plugin
//
// It passes its environment and stdin to the daemon at <its own path>.sock, which is
// usually a symbolic link, or if that does not exist at /run/cni/<name>.sock, and exits
// as the daemon says. While the daemon is being restarted it waits, for at most two
// seconds. Without a daemon it returns an error object with code 11 (try again later),
// or 50 for STATUS.
//
// It is small and imports next to nothing, because its only cost is the start of a
// process.
package main

import (
	"os"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/shimwire"
)

const (
	defaultDir = "/run/cni/"
	patience   = 100 // tries
	pause      = 20_000_000
)

// buffer holds a request and its answer until main needs memory of its own.
var buffer [1 << 20]byte

// early says what was done before main: which part of buffer is the beginning of stdin,
// and if the request was sent, over which connection, and which part is the beginning of
// its answer.
var early struct {
	stdin  [2]int
	sent   bool
	fd     int
	answer [2]int
}

func main() {
	stdin, ok := readAll(0, buffer[early.stdin[0]:early.stdin[1]])
	if !ok {
		os.Exit(refuse(nil, "reading stdin failed"))
	}
	name := base(os.Args[0])
	path := socket(os.Args[0], name)
	fd := early.fd
	if !early.sent {
		var problem string
		if fd, problem = connect(path); problem != "" {
			os.Exit(refuse(stdin, "the daemon of this plugin cannot be reached at "+path+": "+problem))
		}
		request := shimwire.Request{Plugin: name, Env: syscall.Environ(), Stdin: stdin}
		writeAll(fd, request.Append(nil)) // or there is no answer
	}
	answer, ok := receive(fd, buffer[early.answer[0]:early.answer[1]])
	if !ok {
		os.Exit(refuse(stdin, "the daemon of this plugin at "+path+" went away before it answered"))
	}
	writeAll(2, answer.Stderr)
	writeAll(1, answer.Stdout)
	if !answer.OK {
		os.Exit(1)
	}
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// socket returns the path beside the shim if anything is there, even if only a link to
// the socket of a daemon that is being restarted.
func socket(self, name string) string {
	var st syscall.Stat_t
	if beside := self + ".sock"; syscall.Lstat(beside, &st) == nil {
		return beside
	}
	return defaultDir + name + ".sock"
}

// connect waits for a daemon that is starting.
func connect(path string) (fd int, problem string) {
	var err error
	for range patience {
		if fd, err = dial(path); err == nil {
			return fd, ""
		}
		if err != syscall.ENOENT && err != syscall.ECONNREFUSED { //nolint:errorlint // system calls return the bare number
			break
		}
		sleep := syscall.NsecToTimespec(pause)
		_ = syscall.Nanosleep(&sleep, nil) // a pause may be interrupted by a signal
	}
	return -1, err.Error()
}

func dial(path string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// receive reads the answer, of which the beginning has been read.
func receive(fd int, begun []byte) (shimwire.Answer, bool) {
	var prefix [shimwire.LengthSize]byte
	begun, ok := readFull(fd, prefix[:], begun)
	n := shimwire.Length(prefix)
	if !ok || n < 0 {
		return shimwire.Answer{}, false
	}
	message := make([]byte, n)
	if _, ok = readFull(fd, message, begun); !ok {
		return shimwire.Answer{}, false
	}
	return shimwire.ParseAnswer(message)
}

func readAll(fd int, begun []byte) (all []byte, ok bool) {
	all = append(all, begun...)
	buf := make([]byte, 8<<10)
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil, false
		case n == 0:
			return all, true
		default:
			all = append(all, buf[:n]...)
		}
	}
}

// readFull fills b from what was begun, and then from fd. It returns what is left of what
// was begun.
func readFull(fd int, b, begun []byte) (rest []byte, ok bool) {
	n := copy(b, begun)
	for b = b[n:]; len(b) > 0; {
		n, err := syscall.Read(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil, false
		}
		b = b[n:]
	}
	return begun[n:], true
}

// writeAll writes what somebody is there to read.
func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}
