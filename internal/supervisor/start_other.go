//go:build !linux

package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
)

func (p *Process) start() (*run, error) {
	return nil, fmt.Errorf("starting %q: supervising a plugin needs Linux", p.command.Path)
}

// rest is for what start has started.
func rest(io.Writer, *os.File) {}

// EndMarked needs Linux.
func EndMarked(string) error { return errors.New("ending processes by a mark needs Linux") }
