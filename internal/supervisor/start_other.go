//go:build !linux

package supervisor

import (
	"errors"
	"fmt"
)

func (p *Process) start() (*run, error) {
	return nil, fmt.Errorf("starting %q: supervising a plugin needs Linux", p.command.Path)
}

// EndMarked needs Linux.
func EndMarked(string) error { return errors.New("ending processes by a mark needs Linux") }
