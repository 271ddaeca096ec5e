package oci

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// way carries a program's output to a client, which may be slow.
type way struct {
	from     *os.File
	to       io.Writer
	capacity int64 // the most that can be in transit before a read
	read     atomic.Int64
	written  atomic.Int64
	refused  atomic.Bool // the client accepts no more
	over     atomic.Bool
	ended    chan struct{} // closed when the program has ended
	atEnd    int64         // bytes written when the program ended
	idle     int           // how often nothing was seen in transit since
}

// copyBuffer is how much a copy holds: the buffer of io.Copy.
const copyBuffer = 32 << 10

func newWay(from *os.File, to io.Writer) *way {
	w := &way{from: from, to: to, capacity: 64 << 10, ended: make(chan struct{})}
	w.control(func(fd int) {
		if size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil { // a terminal holds less
			w.capacity = int64(size)
		}
	})
	return w
}

// copy copies until the output ends or the client does. A terminal returns EIO while no
// process has it open, and may be opened again: it ends with the program.
func (w *way) copy() {
	defer w.over.Store(true)
	for ended := false; !ended; {
		select {
		case <-w.ended:
			ended = true // everything written before that can be read by now
		default:
		}
		if _, err := io.Copy(w, struct{ io.Reader }{w.from}); !errors.Is(err, unix.EIO) || w.refused.Load() {
			return
		}
		select {
		case <-w.ended:
		case <-time.After(terminalRest):
		}
	}
}

// terminalRest is the interval at which a terminal that no process has open is read
// again.
const terminalRest = 20 * time.Millisecond

// Write passes on what was read.
func (w *way) Write(p []byte) (int, error) {
	w.read.Add(int64(len(p)))
	n, err := w.to.Write(p)
	w.written.Add(int64(n))
	w.refused.Store(err != nil)
	return n, err
}

// end records that the program has ended.
func (w *way) end() {
	w.atEnd = w.written.Load()
	close(w.ended)
}

// delivered reports whether the client has everything written before the end: nothing is
// in transit, or as much has passed since as can be in transit, because another process
// keeps writing.
func (w *way) delivered() bool {
	if w.idle < 2 {
		held := 0
		w.control(func(fd int) { held, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) })
		if held == 0 && w.read.Load() == w.written.Load() {
			w.idle++ // bytes just read may not be counted yet
		} else {
			w.idle = 0
		}
	}
	return w.over.Load() || w.idle == 2 || w.written.Load()-w.atEnd >= w.capacity+copyBuffer
}

// control calls f, unless the file has been closed.
func (w *way) control(f func(fd int)) {
	if raw, err := w.from.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
