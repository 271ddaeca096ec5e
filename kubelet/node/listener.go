package node

import (
	"slices"

	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// another reports whether another plugin, or a child process of it, listens on the
// socket: a plugin that registers late must not be mistaken for the next one.
func (p *places) another(socket string) bool {
	if len(p.others) == 0 {
		return false
	}
	for pid := sockfile.Owner(socket); pid > 1; pid = parentOf(pid) {
		if slices.Contains(p.others, pid) {
			return true
		}
	}
	return false
}

// parentOf returns the process's parent, or 0.
func parentOf(pid int) int {
	stat, err := procstat.Read(pid)
	if err != nil {
		return 0 // it has probably ended
	}
	return stat.PPID
}
