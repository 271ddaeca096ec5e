package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/shimwire"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// DefaultSocketDir is where cmd/cni-shim looks for <plugin>.sock.
const DefaultSocketDir = "/run/cni"

// maxCalls is how many calls a server handles at once; others wait. It bounds the
// memory and threads used on a node that starts all its Pods at once.
const maxCalls = 64

// Server serves plugins as a daemon, so that a call need not start a large program and
// can reuse what earlier calls left open. A runtime executes cmd/cni-shim under the
// plugin's name; the shim passes its environment and stdin over a unix socket and
// returns the answer as if it were the plugin. Handlers cannot tell the difference.
//
// The paths in a request (CNI_NETNS, CNI_PATH) must resolve to the same objects for the
// daemon as for the runtime: run the daemon in the host's mount and network namespaces,
// or mount /run/netns and the like at the same paths as on the host.
type Server struct {
	// Plugins are the plugins to serve, each on its own socket. They find each other as
	// delegates.
	Plugins []*Plugin
	// Dir is the directory of the sockets <name>.sock. It is created if it does not
	// exist, accessible to root only. Empty means DefaultSocketDir.
	Dir string
	// Logger receives what handlers log, which also goes to the shim's stderr. Nil
	// discards it.
	Logger *slog.Logger

	calls chan struct{}
}

// Serve serves until ctx ends and then returns nil, after the calls in progress have
// finished. A temporary shortage of file descriptors or memory does not stop it. If a
// shim goes away, because its runtime killed it, the context of its call ends, and so
// an ADD is rolled back. Call Serve only once. If another process serves a socket, the
// error is fault.AlreadyExists; a socket left by a killed process is replaced.
func (s *Server) Serve(ctx context.Context) error {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	if s.Dir == "" {
		s.Dir = DefaultSocketDir
	}
	s.calls = make(chan struct{}, maxCalls)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("serving CNI plugins: %w", err)
	}
	var listeners []*sockfile.Listener
	var running sync.WaitGroup
	stop := func() (err error) {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		running.Wait()
		return err
	}
	for _, p := range s.Plugins {
		l, err := sockfile.Listen(filepath.Join(s.Dir, p.Name+".sock"))
		if err != nil {
			return errors.Join(fmt.Errorf("serving CNI plugin %q: %w", p.Name, err), stop())
		}
		listeners = append(listeners, l)
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		running.Go(func() { failed <- s.accept(ctx, l, &running) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, stop())
}

func (s *Server) accept(ctx context.Context, l net.Listener, running *sync.WaitGroup) error {
	const first, longest = 5 * time.Millisecond, time.Second
	pause := first
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			if err == nil { // accepted too late
				_ = conn.Close()
			}
			return nil
		case passing(err):
			s.Logger.Warn("accepting calls of CNI plugins, and trying again", "err", err, "pause", pause)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			pause = min(2*pause, longest)
			continue
		case err != nil:
			return fmt.Errorf("accepting calls of CNI plugins: %w", err)
		}
		pause = first
		running.Go(func() {
			defer conn.Close()
			if err := s.answer(ctx, conn); err != nil {
				s.Logger.Error("answering a call of a CNI plugin", "err", err)
			}
		})
	}
}

// passing reports whether the error of Accept is temporary: the process or the node
// is out of file descriptors or memory, or the peer has gone. A daemon that stopped
// for it would take the running calls with it.
func passing(err error) bool {
	for _, errno := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// answer serves one connection: one call, which continues when the server stops. A
// connection that has not sent its request by then is dropped.
func (s *Server) answer(ctx context.Context, conn net.Conn) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()); close(ended) })
	r, err := readRequest(conn)
	if !stop() {
		<-ended // or the deadline could expire in the middle of the call
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
		return nil // nobody asked for anything: a shim may connect, and then begin anew
	case err != nil:
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	go func() { // the shim sends nothing more, so Read returns when it closes the connection
		_, _ = conn.Read(make([]byte, 1))
		cancel(fault.Aborted.Errorf("the runtime ended the call"))
	}()
	s.calls <- struct{}{}
	defer func() { <-s.calls }()
	a := s.call(ctx, r)
	if _, err := conn.Write(a.Append(nil)); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func readRequest(conn net.Conn) (*shimwire.Request, error) {
	var length [shimwire.LengthSize]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	n := shimwire.Length(length)
	if n < 0 {
		return nil, fault.Invalid.Errorf("a request is larger than %d bytes", shimwire.MaxSize)
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(conn, message); err != nil {
		return nil, unexpected(err)
	}
	r, ok := shimwire.ParseRequest(message)
	if !ok {
		return nil, fault.Invalid.Errorf("a request is not of the protocol %q: the shim and the daemon do not belong together", shimwire.Protocol)
	}
	return &r, nil
}

// unexpected is what io.ReadFull returns if not even the first byte is there, where there
// must be one.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *Server) call(ctx context.Context, r *shimwire.Request) *shimwire.Answer {
	env := map[string]string{}
	for _, kv := range r.Env {
		key, value, _ := strings.Cut(kv, "=")
		if _, given := env[key]; !given { // as in a process of Go's
			env[key] = value
		}
	}
	stderr := &capture{most: maxStderr}
	log := slog.New(slog.NewMultiHandler(slog.NewTextHandler(stderr, nil), s.Logger.Handler()))
	set := Set{}
	for _, p := range s.Plugins {
		set[p.Name] = p
	}
	var out []byte
	err := <-apart(func() (err error) {
		out, err = set.invoke(ctx, r.Plugin, env, r.Stdin, output{log, stderr})
		return err
	})
	if err == errExited { //nolint:errorlint // it is apart's own
		out, err = fail(object(err, env["CNI_COMMAND"], ""))
	}
	text, over := stderr.bytes()
	if over {
		text = append(text, "\n(more was written than is handed on)\n"...)
	}
	return &shimwire.Answer{OK: err == nil, Stdout: out, Stderr: text}
}
