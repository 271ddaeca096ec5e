package cri

import (
	"bytes"
	"io"
	"sync"
)

// capture keeps the first bytes of two streams and takes the rest without
// keeping it. After result it keeps nothing more, so that a writer that
// outlives the call cannot disturb the answer.
type capture struct {
	mu       sync.Mutex
	room     int
	closed   bool
	out, err bytes.Buffer
}

func newCapture(limit int) *capture { return &capture{room: limit} }

func (c *capture) stdout() io.Writer { return captureWriter{c, &c.out} }
func (c *capture) stderr() io.Writer { return captureWriter{c, &c.err} }

func (c *capture) result() (stdout, stderr []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.out.Bytes(), c.err.Bytes()
}

type captureWriter struct {
	c   *capture
	buf *bytes.Buffer
}

func (w captureWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.c.closed {
		return len(p), nil
	}
	keep := min(len(p), w.c.room)
	w.c.room -= keep
	w.buf.Write(p[:keep])
	return len(p), nil
}
