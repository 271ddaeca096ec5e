package scratch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/procmark"
)

// Sweep takes down the directories in os.TempDir that killed processes of this user have
// left: it kills the processes that were started for them, detaches what is mounted there
// and removes them. It calls tell with the path of each before it begins. What it cannot
// take down is joined in the error, and left for the next Sweep. Directories of living
// processes, this one among them, are not touched. Several processes may sweep at once.
func Sweep(tell func(path string)) error {
	// The pattern of os.MkdirTemp.
	found, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"[0-9]*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range found {
		if err := sweep(path, tell); err != nil {
			errs = append(errs, fmt.Errorf("taking down %q: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func sweep(path string, tell func(string)) error {
	file := filepath.Join(path, marker)
	if !mine(path, os.ModeDir) || !mine(file, 0) {
		return nil
	}
	lock, err := flock.TryAcquire(file, flock.Exclusive)
	if err != nil || lock == nil { // its owner lives, or removes it right now
		return ignoreMissing(err)
	}
	defer lock.Release()
	tell(path)
	const looks, pause = 10, 20 * time.Millisecond
	return errors.Join(
		procmark.Kill(func(pid int) bool { return belongs(pid, path) }, looks, pause),
		mount.DetachTree(path),
		removeFree(path),
	)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// mine reports whether only this user can have made what is at the path: anybody can make
// something in the temporary directory.
func mine(path string, kind os.FileMode) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Type() != kind || fi.Mode().Perm()&0o022 != 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// belongs reports whether the process was started for the directory: its root is below
// it, or its environment, which descendants inherit, names something there. What a shell
// puts into the environment does not count: somebody may be looking at what is left.
func belongs(pid int, path string) bool {
	below := []byte(path + "/")
	if procmark.HasRoot(pid, string(below)) {
		return true
	}
	env, err := procmark.Environ(pid)
	if err != nil {
		return false
	}
	for pair := range bytes.SplitSeq(env, []byte{0}) {
		name, value, _ := bytes.Cut(pair, []byte("="))
		switch string(name) {
		case "PWD", "OLDPWD", "_":
		default:
			if bytes.Contains(value, below) {
				return true
			}
		}
	}
	return false
}
