package cni

import (
	"fmt"
	"slices"
	"sync"
)

const (
	// maxStdout bounds a plugin's answer; it is far more than any result.
	maxStdout = 16 << 20
	// maxStderr bounds how much of a call's stderr a server returns.
	maxStderr = 1 << 20
)

// capture keeps the beginning of what is written to it. It is safe for concurrent
// use: a handler logs while its delegates write.
type capture struct {
	most int
	// strict makes Write fail if the data does not fit, which ends the writer.
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

// bytes returns what was kept so far and whether anything was dropped.
func (c *capture) bytes() (kept []byte, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kept), c.over
}
