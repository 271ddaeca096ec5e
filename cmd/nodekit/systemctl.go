package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// start starts the service and returns when the node is up.
func (f *unitFlags) start(ctx context.Context, again bool) error {
	if err := systemctl(ctx, "enable", f.name); err != nil {
		return err
	}
	verb := "start"
	if again {
		verb = "restart"
	}
	if err := systemctl(ctx, verb, f.name); err != nil {
		return fmt.Errorf("%w; for its log: journalctl -u %s", err, f.name)
	}
	return nil
}

// stale reports whether the service runs an older unit file or an older program: one of
// them was replaced since its start, by an install without --now, an interrupted one,
// or an upgrade.
func (f *unitFlags) stale(ctx context.Context) (bool, error) {
	pid, err := f.property(ctx, "MainPID")
	if err != nil || pid == "0" {
		return false, err
	}
	text, err := f.property(ctx, "ExecMainStartTimestampMonotonic")
	if err != nil {
		return false, err
	}
	started, err := strconv.ParseInt(text, 10, 64) // microseconds
	if err != nil {
		return false, fmt.Errorf("when %s started: %w", f.name, err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return false, err
	}
	file, err := os.Stat(f.path())
	if err != nil {
		return false, err
	}
	if time.Since(file.ModTime()) < time.Duration(now.Nano())-time.Duration(started)*time.Microsecond {
		return true, nil
	}
	runs, err := os.Stat(fmt.Sprintf("/proc/%s/exe", pid))
	if err != nil {
		return true, nil //nolint:nilerr // it ended just now, or its program is deleted
	}
	program, err := ownPath()
	if err != nil {
		return false, err
	}
	installed, err := os.Stat(program)
	return err == nil && !os.SameFile(runs, installed), err
}

// loaded reports whether systemd has loaded the unit of that name from this file.
func (f *unitFlags) loaded(ctx context.Context) (bool, error) {
	path, err := f.property(ctx, "FragmentPath")
	if err != nil {
		return false, err
	}
	theirs, err := os.Stat(path)
	if err != nil {
		return false, nil // it knows no such unit
	}
	ours, err := os.Stat(f.path())
	return err == nil && os.SameFile(ours, theirs), err
}

// property returns a property of the unit, as reported by systemd.
func (f *unitFlags) property(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property="+name, "--value", f.name).Output()
	if err != nil {
		return "", fmt.Errorf("systemctl show %s: %w", f.name, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// systemctl runs systemctl. The error contains its own message.
func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
