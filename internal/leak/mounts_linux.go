package leak

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mountPoint is a line of /proc/self/mountinfo.
type mountPoint struct {
	device, root, path, fstype, source string
}

// mountinfo reads the mounts of this mount namespace.
func mountinfo() ([]mountPoint, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mountPoint
	for line := range strings.Lines(string(data)) {
		// Optional fields are between the sixth field and " - ".
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 2 {
			return nil, fmt.Errorf("/proc/self/mountinfo: unknown line %q", line)
		}
		all = append(all, mountPoint{
			device: left[2], root: unescape(left[3]), path: unescape(left[4]), fstype: right[0], source: unescape(right[1]),
		})
	}
	return all, nil
}

// unescape undoes the kernel's octal escapes of blanks in a path.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func mounts(kind Kind, scope *Scope) (things, error) {
	all, err := mountinfo()
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, m := range all {
		if (m.fstype == "nsfs") != (kind == Namespace) || !scope.matches(kind, m.path) {
			continue
		}
		name := fmt.Sprintf("%s (%s, %s)", m.path, m.fstype, m.source)
		if kind == Namespace {
			name = fmt.Sprintf("%s (%s)", m.path, m.root)
		}
		found.add(name+m.device, name)
	}
	return found, nil
}

// cgroups walks every hierarchy once, even if it is mounted more than once or has
// several controllers.
func cgroups(scope *Scope) (things, error) {
	all, err := mountinfo()
	if err != nil {
		return nil, err
	}
	found, seen := make(things), make(map[string]bool)
	for _, m := range all {
		if (m.fstype != "cgroup" && m.fstype != "cgroup2") || seen[m.device] {
			continue
		}
		seen[m.device] = true
		if err := cgroupsBelow(m.path, scope, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func cgroupsBelow(mount string, scope *Scope, found things) error {
	return filepath.WalkDir(mount, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case gone(err):
			return nil
		case err != nil:
			return err
		case !entry.IsDir() || path == mount:
			return nil
		}
		if group := strings.TrimPrefix(path, mount); scope.matches(Cgroup, group) {
			name := fmt.Sprintf("%s (in %s)", group, mount)
			found.add(name, name)
		}
		return nil
	})
}
