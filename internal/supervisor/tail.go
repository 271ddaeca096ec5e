package supervisor

import (
	"errors"
	"io"
	"os"
	"sync"
)

// tailSize is how much of a process's output is kept for messages.
const tailSize = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	end  []byte
	life int // where in end the current life of the process begins
}

// writer returns a writer that keeps the tail and passes everything on. All
// writers of one tail write one at a time.
func (t *tail) writer(next io.Writer) io.Writer { return &tee{t, next} }

type tee struct {
	tail *tail
	next io.Writer // nil if nobody else listens
}

// Write never fails: a listener that went away must not end the reading of the
// process's output.
func (w *tee) Write(b []byte) (int, error) {
	w.tail.mu.Lock()
	defer w.tail.mu.Unlock()
	w.tail.end = append(w.tail.end, b...)
	if over := len(w.tail.end) - tailSize; over > 0 {
		w.tail.end = append(w.tail.end[:0], w.tail.end[over:]...)
		w.tail.life = max(w.tail.life-over, 0)
	}
	if w.next != nil {
		if _, err := w.next.Write(b); err != nil {
			w.next = nil
		}
	}
	return len(b), nil
}

// begin marks the beginning of a new life's output.
func (t *tail) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life = len(t.end)
}

func (t *tail) last(life bool) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if life {
		return string(t.end[t.life:])
	}
	return string(t.end)
}

// pump copies a pipe until all holders of its other end have closed it, and calls
// read once everything that the process wrote has been read: the end of the process
// sets a deadline.
func (t *tail) pump(from *os.File, next io.Writer, read func()) {
	defer from.Close()
	w := t.writer(next)
	_, err := io.Copy(w, from) // any other error is the end of the pipe
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		read()
		return
	}
	rest(w, from)
	read()
	_, _ = io.Copy(w, from) // processes that left the group on purpose continue to write
}
