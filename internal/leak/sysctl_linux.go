package leak

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// sysctls reads those of the calling thread's network namespace. Counters and
// unreadable files are not settings.
func sysctls(scope *Scope) (things, error) {
	w := sysctlWalk{scope: scope, found: make(things)}
	root, err := os.Open("/proc/sys/net")
	if err != nil {
		return nil, err
	}
	return w.found, w.dir(root, "net")
}

// sysctlWalk uses descriptors: there are many hundred files, and resolving their
// paths costs more than reading them.
type sysctlWalk struct {
	scope *Scope
	found things
	value [4 << 10]byte // one read(2) returns everything that fits
}

// dir reads the directory, which has the given key, and closes it.
func (w *sysctlWalk) dir(d *os.File, key string) error {
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, below := entry.Name(), key+"/"+entry.Name()
		switch {
		case strings.HasSuffix(name, "_count"):
		case !entry.IsDir():
			w.file(d, name, below)
		case path.Base(key) == "neigh" && name != "default": // many, and nobody sets them one by one
		default:
			fd, err := rawfile.OpenAt(int(d.Fd()), name, unix.O_DIRECTORY)
			if gone(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("opening the sysctls %q: %w", below, err)
			}
			if err := w.dir(os.NewFile(uintptr(fd), below), below); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *sysctlWalk) file(d *os.File, name, key string) {
	if !w.scope.matches(Sysctl, key) {
		return
	}
	fd, err := rawfile.OpenAt(int(d.Fd()), name, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, w.value[:])
	value := w.value[:max(n, 0)]
	if n == len(w.value) { // such as a list of ports
		value, err = rawfile.Read("/proc/sys/" + key)
	}
	if err == nil {
		setting := key + " = " + strings.TrimSpace(string(value))
		w.found.add(setting, setting)
	}
}
