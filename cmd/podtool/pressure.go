package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// runBurn keeps one processor busy.
func runBurn(_ *tool, ctx context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	d, err := parseDuration(args[0])
	if err != nil {
		return err
	}
	for end := time.Now().Add(d); d < 0 || time.Now().Before(end); {
		if ctx.Err() != nil {
			return context.Canceled
		}
	}
	return nil
}

// runFill prints bytes without a newline among them.
func runFill(t *tool, _ context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	n, err := parseBytes(args[0])
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("x"), min(n, 1<<16))
	for ; n > 0; n -= len(block) {
		if _, err := t.stdout.Write(block[:min(n, len(block))]); err != nil {
			return err
		}
	}
	return nil
}

// runLeave starts a child that holds the streams open, and does not wait for it.
func runLeave(t *tool, _ context.Context, args []string) error {
	args, err := flags(args, -1, nil)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.stdin, t.stdout, t.stderr
	return cmd.Start()
}

// runCount is for connections with one side closed before the other.
func runCount(t *tool, ctx context.Context, args []string) error {
	args, err := flags(args, 1, nil)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return misuse("%q is no port", args[0])
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Fprintf(t.stdout, "counting on %s\n", l.Addr())
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return context.Canceled
		}
		if err != nil {
			return err
		}
		go answerCount(conn)
	}
}

func answerCount(conn net.Conn) {
	defer conn.Close()
	n, err := io.Copy(io.Discard, conn)
	_, _ = fmt.Fprintf(conn, "%d bytes, %v\n", n, errors.Join(err))
}
