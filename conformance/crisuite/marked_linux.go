package crisuite

import (
	"os"
	"strconv"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// markedPIDs returns the runtime's process and the processes that it left running.
func (r *runtime) markedPIDs() (found []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && procmark.Carries(pid, r.root) {
			found = append(found, pid)
		}
	}
	return found, nil
}
