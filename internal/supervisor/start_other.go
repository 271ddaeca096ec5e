//go:build !linux

package supervisor

import (
	"errors"
	"fmt"
)

func (p *Process) start() (*run, error) {
	return nil, fmt.Errorf("starting %q: supervising a plugin needs Linux", p.command.Path)
}

// KillMarked needs Linux.
func KillMarked(string) (int, error) { return 0, errors.New("ending processes by a mark needs Linux") }
