//go:build !linux

package log

import (
	"os"
	"path/filepath"
)

// openAppending follows symbolic links between dir and the file, but not the last one.
func openAppending(dir, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND|noFollow|noBlocking, 0o640)
}
