package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/pause"
)

func runEcho(t *tool, _ context.Context, args []string) error {
	to := t.stdout
	if len(args) > 0 && args[0] == "--stderr" {
		to, args = t.stderr, args[1:]
	}
	_, err := fmt.Fprintln(to, strings.Join(args, " "))
	return err
}

func runLines(t *tool, ctx context.Context, args []string) error {
	var interval time.Duration
	args, err := flags(args, 1, func(fs *flag.FlagSet) { fs.DurationVar(&interval, "interval", 0, "") })
	if err != nil {
		return err
	}
	last, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return misuse("%q is no number of lines", args[0])
	}
	for n := uint64(1); last == 0 || n <= last; n++ {
		if _, err := fmt.Fprintln(t.stdout, n); err != nil {
			return err
		}
		if err := wait(ctx, interval); err != nil {
			return err
		}
	}
	return nil
}

func runPieces(t *tool, ctx context.Context, args []string) error {
	var interval time.Duration
	args, err := flags(args, -1, func(fs *flag.FlagSet) { fs.DurationVar(&interval, "interval", 0, "") })
	if err != nil {
		return err
	}
	for _, piece := range args {
		if _, err := io.WriteString(t.stdout, piece); err != nil {
			return err
		}
		if err := wait(ctx, interval); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(t.stdout)
	return err
}

func runCopyStdin(t *tool, ctx context.Context, args []string) error {
	if _, err := flags(args, 0, nil); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // a read cannot be interrupted
		_, err := io.Copy(t.stdout, t.stdin)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Canceled
	}
}

func runEnv(t *tool, _ context.Context, names []string) error {
	if len(names) == 0 {
		for _, line := range slices.Sorted(slices.Values(os.Environ())) {
			fmt.Fprintln(t.stdout, line)
		}
		return nil
	}
	for _, name := range names {
		value, ok := os.LookupEnv(name)
		if !ok {
			return fmt.Errorf("variable %s is not set", name)
		}
		fmt.Fprintln(t.stdout, value)
	}
	return nil
}

func runID(t *tool, _ context.Context, args []string) error {
	if _, err := flags(args, 0, nil); err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	slices.Sort(groups)
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(groups), " ", ","), "[]")
	_, err = fmt.Fprintf(t.stdout, "uid=%d gid=%d groups=%s\n", os.Geteuid(), os.Getegid(), list)
	return err
}

func runHostname(t *tool, _ context.Context, args []string) error {
	if _, err := flags(args, 0, nil); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, name)
	return err
}

func runSleep(_ *tool, ctx context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	d, err := parseDuration(args[0])
	if err != nil {
		return err
	}
	return wait(ctx, d)
}

// parseDuration reads "1.5" (seconds), "300ms" or "forever", which is negative.
func parseDuration(s string) (time.Duration, error) {
	if s == "forever" || s == "infinity" {
		return -1, nil
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, misuse("%q is no duration: 1.5, 300ms, 2m and forever are", s)
	}
	return d, nil
}

func runExit(_ *tool, _ context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	code, err := parseCode(args[0])
	if err != nil {
		return err
	}
	return exitCode(code)
}

func parseCode(s string) (int, error) {
	code, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, misuse("%q is no exit code: they are 0 to 255", s)
	}
	return int(code), nil
}

// runPause is for a podtool that is not linked to pause before the Go runtime starts.
func runPause(_ *tool, _ context.Context, args []string) error {
	if len(args) > 0 {
		return misuse("it takes no arguments")
	}
	pause.Run()
	return exitCode(0)
}

func runTrap(t *tool, ctx context.Context, args []string) error {
	var delay time.Duration
	name := "TERM"
	args, err := flags(args, 1, func(fs *flag.FlagSet) {
		fs.DurationVar(&delay, "delay", 0, "")
		fs.StringVar(&name, "signal", name, "")
	})
	if err != nil {
		return err
	}
	code, err := parseCode(args[0])
	if err != nil {
		return err
	}
	if err := t.await(ctx, name); err != nil {
		return err
	}
	time.Sleep(delay)
	return exitCode(code)
}

// await waits for a signal. SIGTERM ends the context; if another one does not come, the
// command ends like any other. A line says that the signal may come.
func (t *tool) await(ctx context.Context, name string) error {
	if name == "TERM" {
		<-ctx.Done()
		return nil
	}
	sig, known := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "WINCH": syscall.SIGWINCH}[name]
	if !known {
		return misuse("%q is no signal that can be waited for: TERM, HUP, USR1 and WINCH are", name)
	}
	got, stop := notify(sig)
	defer stop()
	fmt.Fprintf(t.stdout, "waiting for %s\n", name)
	select {
	case <-got:
		return nil
	case <-ctx.Done():
		return context.Canceled
	}
}

// notify returns a channel that receives the signal.
func notify(sig os.Signal) (got <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	return c, func() { signal.Stop(c) }
}

func runIgnoreTerm(t *tool, ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"forever"}
	}
	t.signals.ignoreTerm.Store(true)
	defer t.signals.ignoreTerm.Store(false)
	return runSleep(t, ctx, args)
}

// runChild is for what happens to a process that is not the container's first.
func runChild(t *tool, ctx context.Context, args []string) error {
	args, err := flags(args, -1, nil)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	t.signals.waiting.Store(true)
	defer func() {
		t.signals.waiting.Store(false)
		t.signals.reap()
	}()
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.stdin, t.stdout, t.stderr
	err = cmd.Run()
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return err
	}
	if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitCode(128 + int(status.Signal()))
	}
	return exitCode(ended.ExitCode())
}

// runEat maps memory instead of allocating it, so that the garbage collector uses none
// in addition.
func runEat(t *tool, ctx context.Context, args []string) error {
	hold := "forever"
	args, err := flags(args, 1, func(fs *flag.FlagSet) { fs.StringVar(&hold, "hold", hold, "") })
	if err != nil {
		return err
	}
	n, err := parseBytes(args[0])
	if err != nil {
		return err
	}
	d, err := parseDuration(hold)
	if err != nil {
		return err
	}
	memory, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("mapping %d bytes: %w", n, err)
	}
	for i := 0; i < n; i += os.Getpagesize() {
		memory[i] = 1
	}
	fmt.Fprintf(t.stdout, "holding %d bytes\n", n)
	return errors.Join(wait(ctx, d), syscall.Munmap(memory))
}

func parseBytes(s string) (int, error) {
	number, shift := s, 0
	for suffix, bits := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30} {
		if cut, ok := strings.CutSuffix(s, suffix); ok {
			number, shift = cut, bits
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return 0, misuse("%q is no number of bytes: 4096, 64Ki, 64Mi and 1Gi are", s)
	}
	return int(n) << shift, nil
}
