package log

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/beneath"
)

func openAppending(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, name)
	fd, err := beneath.Open(dir, name, syscall.O_CREAT|syscall.O_WRONLY|syscall.O_APPEND|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
