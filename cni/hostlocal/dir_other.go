//go:build !linux

package hostlocal

import "os"

// list returns the names alone; without inodes every reservation is read.
func list(dir *os.File) ([]entry, error) {
	names, err := dir.Readdirnames(-1)
	out := make([]entry, len(names))
	for i, name := range names {
		out[i].name = name
	}
	return out, err
}
