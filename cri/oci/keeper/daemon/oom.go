package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oomWatch finds out whether the kernel killed a process of a container for
// memory. The kernel counts such a kill in the cgroup of the killed process,
// whichever limit above it was reached; on v2 in those above as well.
type oomWatch struct {
	file   string // counts for the container's cgroup; "" for no watch
	parent string // the same of the cgroup above
	before int    // what was counted there before the container started
}

// watchOOM begins to watch a container that is about to be started.
func watchOOM(file string) oomWatch {
	w := oomOf(file, 0)
	if file != "" {
		w.before, _ = oomKills(w.parent)
	}
	return w
}

// oomOf takes up the watch of an earlier keeper.
func oomOf(file string, before int) oomWatch {
	if file == "" {
		return oomWatch{}
	}
	return oomWatch{file: file, parent: filepath.Join(filepath.Dir(filepath.Dir(file)), filepath.Base(file)), before: before}
}

// killed reports whether it is to blame for the container's end with the code.
// A container that ended well may have lost a child, but not its work. Where
// systemd was faster and the container's cgroup is gone, a kill in the cgroup
// above counts if it was one of this container's kind: by SIGKILL, and while it
// lived.
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

// oomKills reads the counter of a v1 memory.oom_control or v2 memory.events.
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
