package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes the content of f durable without its timestamps.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
