package sysctl

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Without package os, as in rawfile: these are on the critical path of plugins.

// Read returns a variable's value without the trailing newline.
func Read(name string) (value string, err error) {
	b, err := rawfile.Read("/proc/sys/" + name)
	if err != nil {
		return "", fmt.Errorf("reading sysctl %s: %w", name, err)
	}
	return string(bytes.TrimRight(b, "\n")), nil
}

// Write sets a variable.
func Write(name, value string) error {
	fd, err := unix.Open("/proc/sys/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("setting sysctl %s: %w", name, err)
	}
	return nil
}

// Ensure sets a variable unless it already has the value: /proc/sys may be read-only.
func Ensure(name, value string) error {
	if now, err := Read(name); err == nil && now == value {
		return nil
	}
	return Write(name, value)
}
