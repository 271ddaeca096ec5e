// Command podtool is the program inside the images of nodekit's examples and tests: one
// static binary that does what such containers do. It is small, needs nothing from its
// image (no shell, no libraries, no files), and behaves as process 1 of a container. It
// is not a shell: steps run one after another, and there are no variables.
//
//	podtool COMMAND [ARGUMENTS]
//	podtool do "write /data/x hello" "serve --port 8080 --requests 3"
//	podtool help
//
// The exit code is 0, that of the exit and trap commands, 1 after an error, and 2 for
// invalid arguments. SIGTERM and SIGINT end every command at once, also as process 1,
// with 143 and 130 as a shell reports it; serve finishes its requests and ends with 0;
// ignore-term and trap do what their names say. As process 1 it reaps orphans.
//
// The value of PODTOOL_END in its environment is the last line that it prints, to both
// of its streams, so that a reader of the log knows that the log is complete. Programs
// that it starts do not get the variable.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program; it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	sig, stop := watchSignals(context.Background())
	defer stop()
	t := &tool{stdin: stdin, stdout: stdout, stderr: stderr, signals: sig}
	end := os.Getenv(endVariable)
	if err := os.Unsetenv(endVariable); err != nil {
		return t.code(err)
	}
	code := t.code(t.execute(sig.ctx, args))
	if end != "" {
		fmt.Fprintln(stdout, end)
		fmt.Fprintln(stderr, end)
	}
	return code
}

const endVariable = "PODTOOL_END"

// tool is the environment of every command.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	signals        *signals
}

// exitCode is the error of a command that ends the program with that code, without a
// message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is the error for invalid arguments.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func misuse(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// code reports err, if there is anything to report, and returns the program's exit
// code.
func (t *tool) code(err error) int {
	var exit exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, context.Canceled):
		return t.signals.exitCode()
	case errors.As(err, &usage):
		fmt.Fprintf(t.stderr, "podtool: %v\n", err)
		return 2
	}
	fmt.Fprintf(t.stderr, "podtool: %v\n", err)
	return 1
}
