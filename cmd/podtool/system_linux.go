package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// runWindow prints the size of the terminal, and again whenever it changes.
func runWindow(t *tool, ctx context.Context, args []string) error {
	if _, err := flags(args, 0, nil); err != nil {
		return err
	}
	changed, stop := notify(unix.SIGWINCH)
	defer stop()
	for {
		size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return fmt.Errorf("asking for the terminal's size: %w", err)
		}
		fmt.Fprintf(t.stdout, "%d columns, %d rows\n", size.Col, size.Row)
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Canceled
		}
	}
}

// runBind makes a bind mount.
func runBind(_ *tool, _ context.Context, args []string) error {
	args, err := flags(args, 2, nil)
	if err != nil {
		return err
	}
	return unix.Mount(args[0], args[1], "", unix.MS_BIND, "")
}
