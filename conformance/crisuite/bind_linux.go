package crisuite

import "golang.org/x/sys/unix"

// bindMount makes a bind mount.
func bindMount(from, to string) error { return unix.Mount(from, to, "", unix.MS_BIND, "") }

// shareMount makes a directory a shared mount of its own.
func shareMount(dir string) error {
	if err := bindMount(dir, dir); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_SHARED, "")
}
