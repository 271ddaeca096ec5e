package crisuite

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nodekit-project/nodekit/internal/procmark"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// listens returns the paths of the unix sockets on which the runtime and its children
// listen.
func (r *runtime) listens() (found []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !r.owns(pid) {
			continue
		}
		for _, name := range listensIn(filepath.Join("/proc", e.Name())) {
			for _, path := range pathsOf(name) {
				if r.owns(sockfile.Owner(path)) {
					found = append(found, path)
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// owns reports whether a process belongs to the runtime.
func (r *runtime) owns(pid int) bool {
	return pid > 0 && pid != os.Getpid() && procmark.Carries(pid, r.root)
}

// pathsOf returns where the socket that was bound to the name may be: there or, because
// some give it its final name only when it works, beside it.
func pathsOf(name string) []string {
	if !filepath.IsAbs(name) {
		return nil
	}
	if _, err := os.Lstat(name); err == nil {
		return []string{name}
	}
	var paths []string
	entries, _ := os.ReadDir(filepath.Dir(name)) // a missing directory has none
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			paths = append(paths, filepath.Join(filepath.Dir(name), e.Name()))
		}
	}
	return paths
}

// listensIn returns the names to which a process's listening unix sockets were bound:
// those of its network namespace for which it has a descriptor.
func listensIn(proc string) (found []string) {
	const flags, inode, path, accepts = 3, 6, 7, 0x10000 // the fields of proc_net_unix(5), and __SO_ACCEPTCON of Linux
	own := map[string]bool{}
	fds, _ := os.ReadDir(filepath.Join(proc, "fd")) // the process may have ended
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil {
			own[target] = true
		}
	}
	table, _ := os.ReadFile(filepath.Join(proc, "net/unix"))
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) <= path || !own["socket:["+fields[inode]+"]"] {
			continue
		}
		if n, err := strconv.ParseUint(fields[flags], 16, 64); err == nil && n&accepts != 0 {
			found = append(found, fields[path])
		}
	}
	return found
}
