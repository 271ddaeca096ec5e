package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oomWatch finds out whether the OOM killer killed a process of a container. The kernel
// counts such a kill in the cgroup of the killed process, whichever limit above it was
// reached, and with cgroup v2 in its ancestors as well.
type oomWatch struct {
	file   string // counter file of the container's cgroup; "" for no watch
	parent string // that of the parent cgroup
	before int    // the parent's count before the container started
}

// watchOOM starts watching a container that is about to be started.
func watchOOM(file string) oomWatch {
	w := oomOf(file, 0)
	if file != "" {
		w.before, _ = oomKills(w.parent)
	}
	return w
}

// oomOf resumes the watch of an earlier keeper.
func oomOf(file string, before int) oomWatch {
	if file == "" {
		return oomWatch{}
	}
	return oomWatch{file: file, parent: filepath.Join(filepath.Dir(filepath.Dir(file)), filepath.Base(file)), before: before}
}

// killed reports whether the OOM killer caused the container's end with this code. A
// container that ended successfully may have lost a child, but not its work. If systemd
// was faster and the container's cgroup is gone, a kill in the parent cgroup counts if it
// may have been of this container: by SIGKILL, and during its lifetime.
func (w oomWatch) killed(code int32) bool {
	if code == 0 || w.file == "" {
		return false
	}
	if n, err := oomKills(w.file); err == nil {
		return n > 0
	}
	n, err := oomKills(w.parent)
	return err == nil && n > w.before && code == 128+int32(unix.SIGKILL)
}

// oomKills reads the counter of memory.oom_control (cgroup v1) or memory.events (v2).
func oomKills(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, nil
}
