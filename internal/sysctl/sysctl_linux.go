package sysctl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The files are opened without package os, which would have the runtime poll
// them: more system calls than the reading takes.

// Read returns a variable's value, without the end of the line.
func Read(name string) (value string, err error) {
	fd, err := unix.Open("/proc/sys/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("reading sysctl %s: %w", name, err)
	}
	defer unix.Close(fd)
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", fmt.Errorf("reading sysctl %s: %w", name, err)
	}
	for n > 0 && b[n-1] == '\n' {
		n--
	}
	return string(b[:n]), nil
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

// Ensure sets a variable unless it has the value: /proc/sys may be read-only.
func Ensure(name, value string) error {
	if now, err := Read(name); err == nil && now == value {
		return nil
	}
	return Write(name, value)
}
