//go:build !linux

package sockfile

import "syscall"

// Private does nothing here: such a system decides the file's mode by the umask alone.
func Private(_, _ string, _ syscall.RawConn) error { return nil }
