package cni

import (
	"fmt"
	"slices"
	"sync"
)

const (
	// maxStdout bounds what a plugin may answer: far more than any result.
	maxStdout = 16 << 20
	// maxStderr bounds what a server hands back of a call's stderr.
	maxStderr = 1 << 20
)

// capture keeps the beginning of what is written to it. It is safe for concurrent
// use: a handler logs while its delegates write.
type capture struct {
	most int
	// strict makes a write that does not fit an error, which ends the writer.
	strict bool

	mu   sync.Mutex
	kept []byte
	over bool
}

func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fits := min(len(b), c.most-len(c.kept))
	c.kept = append(c.kept, b[:fits]...)
	if fits == len(b) {
		return len(b), nil
	}
	c.over = true
	if c.strict {
		return fits, fmt.Errorf("more than %d bytes", c.most)
	}
	return len(b), nil
}

// bytes returns what is kept so far, and whether it is not all.
func (c *capture) bytes() (kept []byte, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kept), c.over
}
