package bridge

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ignoreAdvertisements keeps containers from telling the host its routes.
func ignoreAdvertisements(link string) error {
	err := writeSysctl("net/ipv6/conf/"+link+"/accept_ra", "0")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}

func forwardingOf(ipv4 bool) string {
	if ipv4 {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}

// enableForwarding switches the host's forwarding on where it is off.
func enableForwarding(ipv4 bool) error { return ensureSysctl(forwardingOf(ipv4), "1") }

// ensureSysctl writes the value unless it is set: /proc/sys may be read-only.
func ensureSysctl(name, value string) error {
	if now, err := readSysctl(name); err == nil && now == value {
		return nil
	}
	return writeSysctl(name, value)
}

// The files are opened without package os, which would have the runtime poll
// them: more system calls than the reading takes.

func readSysctl(name string) (value string, err error) {
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

func writeSysctl(name, value string) error {
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
