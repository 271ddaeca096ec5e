//go:build unix

package log

import "syscall"

const (
	noFollow   = syscall.O_NOFOLLOW // a symbolic link is an error
	noBlocking = syscall.O_NONBLOCK // a named pipe is not waited at; it means nothing to a file
)
