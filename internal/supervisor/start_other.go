//go:build !linux

package supervisor

import "fmt"

func (p *Process) start() (*run, error) {
	return nil, fmt.Errorf("starting %q: supervising a plugin needs Linux", p.command.Path)
}
