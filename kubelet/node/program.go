package node

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// findProgram looks for one of this project's programs beside the running one, and then
// in PATH.
func findProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if fi, err := os.Stat(beside); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fault.NotFound.Errorf("the program %q is neither beside this program nor in PATH: build it with `make build`, or go build ./cmd/%s", name, name)
	}
	return filepath.Abs(path)
}

// linkDelegates fills dir with the reference CNI plugins as programs, for an external
// network that names them and for plugins that execute them as delegates, such as
// host-local for addresses. If their program is missing there is nothing to link, and
// plugins are looked for on the machine only.
func linkDelegates(dir string) (binDirs []string, err error) {
	program, err := findProgram("cni")
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		link := filepath.Join(dir, name)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Symlink(program, link); err != nil {
			return nil, err
		}
	}
	return []string{dir}, nil
}
