//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package main

import (
	"syscall"
	"unsafe"

	"github.com/nodekit-project/nodekit/internal/bare"
	"github.com/nodekit-project/nodekit/internal/shimwire"
)

// Starting and ending Go's runtime takes longer than all else that the shim does, and
// longer than an ADD in the daemon (docs/decisions/008), and a call that goes well needs
// none of it. Linked with -ldflags='-E main.entry', the process starts at entry, and
// forward makes the call with bare system calls. Whatever is out of the ordinary it leaves
// to main: no daemon, a connection that breaks, a document that is larger than the buffer.
// Without the flag main does everything. On other architectures, and with cgo, whose C
// library must not be passed over, there is no entry.
// What may be called here, package bare says.

// entry is for the linker.
func entry()

var (
	stack   unsafe.Pointer // as the kernel made it
	thread  [2]uintptr     // the end of thread-local storage, where the processor has a register for it
	address syscall.RawSockaddrUnix
	blocked uint64 // signals
)

// atFDCWD is AT_FDCWD, -100.
const atFDCWD = ^uintptr(99)

// forward passes the call on to the daemon and ends the process as it says. It returns
// if main is to continue, from what early says.
//
//go:nosplit
func forward(sp unsafe.Pointer) {
	self := *bare.Word(sp, 1)
	if self == nil {
		return
	}
	fd := dialEarly(self)
	if fd < 0 {
		return
	}
	pos := compose(sp, self)
	if pos < 0 {
		bare.Call(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0)
		return
	}
	early.stdin = [2]int{pos, pos}
	for {
		n := fill(0, pos)
		if n == 0 && pos < len(buffer) {
			break
		}
		if n <= 0 {
			bare.Call(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0)
			return
		}
		pos += n
		early.stdin[1] = pos
	}
	putLength(early.stdin[0]-shimwire.LengthSize, pos-early.stdin[0])
	putLength(0, pos-shimwire.LengthSize)

	sent := send(fd, pos)
	if sent == 0 { // the daemon dropped the connection while stdin was read: main makes another
		bare.Call(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0)
		return
	}
	early.sent, early.fd = true, fd
	if sent < pos {
		return
	}
	begin := pos
	for pos-begin < shimwire.LengthSize || pos-begin < shimwire.LengthSize+length(begin) {
		n := fill(fd, pos)
		if n <= 0 {
			return
		}
		pos += n
		early.answer = [2]int{begin, pos}
	}
	finish(begin+shimwire.LengthSize, begin+shimwire.LengthSize+length(begin))
}

// finish writes what the daemon has answered, and ends the process. It returns if that is
// not an answer.
//
//go:nosplit
func finish(pos, end int) {
	if end-pos < shimwire.LengthSize {
		return
	}
	verdict := pos + shimwire.LengthSize
	stdout := verdict + length(pos)
	if stdout > end-shimwire.LengthSize {
		return
	}
	stderr := stdout + shimwire.LengthSize + length(stdout)
	if stderr > end-shimwire.LengthSize || stderr+shimwire.LengthSize+length(stderr) != end {
		return
	}
	code := uintptr(0)
	switch {
	case has(verdict, stdout, "ok"):
	case has(verdict, stdout, "failed"):
		code = 1
	default:
		return
	}
	// If nobody reads stderr, the result still goes to stdout, and the status says how the
	// call went. With the Go runtime there, SIGPIPE does not end the shim either.
	blocked = bare.Signal(syscall.SIGPIPE)
	bare.Block(&blocked)
	write(2, stderr+shimwire.LengthSize, end)
	write(1, stdout+shimwire.LengthSize, stderr)
	bare.Call(syscall.SYS_EXIT_GROUP, code, 0, 0, 0)
}

// dialEarly is socket and dial; -1 if that does not succeed at once.
//
//go:nosplit
func dialEarly(self *byte) int {
	n := putPath(0, self)
	n = putPathText(n, ".sock")
	if n < 0 {
		return -1
	}
	// A link or, with EINVAL, something else is there. buffer is not used yet.
	is := bare.Call(syscall.SYS_READLINKAT, atFDCWD, uintptr(unsafe.Pointer(&address.Path)), uintptr(unsafe.Pointer(&buffer)), uintptr(len(buffer)))
	if is < 0 && is != -int(syscall.EINVAL) {
		n = putPathText(0, defaultDir)
		n = putPath(n, baseEarly(self))
		n = putPathText(n, ".sock")
		if n < 0 {
			return -1
		}
	}
	address.Family = syscall.AF_UNIX
	fd := bare.Call(syscall.SYS_SOCKET, syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0, 0)
	if fd < 0 {
		return -1
	}
	if fd <= 2 { // one of the standard ones is closed, for which the runtime opens /dev/null
		bare.Call(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0)
		return -1
	}
	if bare.Call(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Offsetof(address.Path)+uintptr(n)+1, 0) < 0 {
		bare.Call(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0)
		return -1
	}
	return fd
}

// compose writes the request into buffer, except for its length and stdin. It returns
// where stdin begins, or -1 if the request does not fit.
//
//go:nosplit
func compose(sp unsafe.Pointer, self *byte) int {
	pos := putText(shimwire.LengthSize, shimwire.Protocol)
	pos = putString(pos, baseEarly(self)) // it fits, as part of the socket's path
	count := pos
	pos += shimwire.LengthSize
	first := 1
	for *bare.Word(sp, first) != nil {
		first++
	}
	first++
	env := first
	for ; *bare.Word(sp, env) != nil; env++ {
		pos = putString(pos, *bare.Word(sp, env))
	}
	if pos < 0 || pos+shimwire.LengthSize > len(buffer) {
		return -1
	}
	putLength(count, env-first)
	return pos + shimwire.LengthSize
}

// baseEarly is base.
//
//go:nosplit
func baseEarly(path *byte) *byte {
	name := path
	for i := 0; bare.At(path, i) != 0; i++ {
		if bare.At(path, i) == '/' {
			name = (*byte)(unsafe.Add(unsafe.Pointer(path), i+1))
		}
	}
	return name
}

// putPath appends a string to the n bytes of the socket's path, and returns their
// number; -1 if it is too long.
//
//go:nosplit
func putPath(n int, s *byte) int {
	for i := 0; n >= 0 && bare.At(s, i) != 0; i++ {
		n = putPathByte(n, bare.At(s, i))
	}
	return n
}

//go:nosplit
func putPathText(n int, s string) int {
	for i := 0; n >= 0 && i < len(s); i++ {
		n = putPathByte(n, s[i])
	}
	return n
}

//go:nosplit
func putPathByte(n int, b byte) int {
	if n+1 >= len(address.Path) {
		return -1
	}
	address.Path[n], address.Path[n+1] = int8(b), 0
	return n + 1
}

// putString writes a string into buffer, behind its length, and returns where it ends; -1
// if it does not fit, or pos is -1.
//
//go:nosplit
func putString(pos int, s *byte) int {
	n := 0
	for bare.At(s, n) != 0 {
		n++
	}
	if pos < 0 || pos+shimwire.LengthSize+n > len(buffer) {
		return -1
	}
	putLength(pos, n)
	for i := range n {
		buffer[pos+shimwire.LengthSize+i] = bare.At(s, i)
	}
	return pos + shimwire.LengthSize + n
}

//go:nosplit
func putText(pos int, s string) int {
	putLength(pos, len(s))
	for i := range len(s) {
		buffer[pos+shimwire.LengthSize+i] = s[i]
	}
	return pos + shimwire.LengthSize + len(s)
}

//go:nosplit
func putLength(pos, n int) {
	buffer[pos], buffer[pos+1], buffer[pos+2], buffer[pos+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
}

//go:nosplit
func length(pos int) int {
	return int(buffer[pos])<<24 | int(buffer[pos+1])<<16 | int(buffer[pos+2])<<8 | int(buffer[pos+3])
}

//go:nosplit
func has(from, to int, s string) bool {
	same := to-from == len(s)
	for i := 0; same && i < len(s); i++ {
		same = buffer[from+i] == s[i]
	}
	return same
}

// fill reads into buffer from pos on. It returns 0 at the end, and if buffer is full.
//
//go:nosplit
func fill(fd, pos int) int {
	if pos == len(buffer) {
		return 0
	}
	return bare.Call(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buffer[pos])), uintptr(len(buffer)-pos), 0)
}

// send sends the first n bytes of buffer, and returns how many the socket took: not all of
// them if the daemon has gone, which causes no SIGPIPE.
//
//go:nosplit
func send(fd, n int) int {
	pos := 0
	for pos < n {
		sent := bare.Call(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buffer[pos])), uintptr(n-pos), syscall.MSG_NOSIGNAL)
		if sent < 0 {
			break
		}
		pos += sent
	}
	return pos
}

//go:nosplit
func write(fd, from, to int) {
	for from < to {
		n := bare.Call(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&buffer[from])), uintptr(to-from), 0)
		if n < 0 {
			return
		}
		from += n
	}
}
