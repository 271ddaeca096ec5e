//go:build !linux || !(amd64 || arm64)

package termination

import "syscall"

func handle() (wait func() syscall.Signal, err error) { return notify(), nil }
