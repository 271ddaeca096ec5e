package node

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// another reports whether another plugin, or a child of its, listens at the
// socket: one that registers late must not be taken for the one after it.
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
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; the state and the parent follow.
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}
