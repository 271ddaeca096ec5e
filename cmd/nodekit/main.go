// Command nodekit runs Pods on a node of its own, serves the reference plugins
// individually, and checks plugins against their specifications.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A reader that disappears must make a write fail and not end the process in the
	// middle of its work. The signal is caught, not ignored, because child processes
	// would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes the command line and returns the process's exit code.
func run(ctx context.Context, args []string) int {
	silenceLibraries()
	root := newRootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	default:
		fmt.Fprintln(os.Stderr, "nodekit:", err)
		return 1
	}
}

// exitCode is an error that only carries the exit code of a command that has already
// reported everything.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
