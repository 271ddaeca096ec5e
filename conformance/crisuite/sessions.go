package crisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sessionCrashRules kill the runtime while a client is connected to a container. What
// becomes of that call, and when a command ends that nobody waits for any more, is the
// runtime's choice. But the container must be as it was, and when it ends, so must all
// that is in it.
func sessionCrashRules() []rule {
	const (
		section  = "runtime restart"
		survival = "A runtime that is restarted must not end the node's Pods."
	)
	return []rule{
		crash(relied("CRI-CRASH-022", "lets a container run on when it is killed while ExecSync executes a command in it",
			section, survival, nil), checkKilledInExecSync, Survival, Exec),
		crash(relied("CRI-CRASH-023", "lets a container run on when it is killed while the stream of a command in it is open",
			section, survival, nil), checkKilledInExec, Survival, Streaming),
		crash(relied("CRI-CRASH-024", "lets a container run on when it is killed while a client is attached to it",
			section, survival, nil), checkKilledInAttach, Survival, Streaming),
		crash(must("CRI-CRASH-025", "stops with a sandbox the command that it was executing when it was killed",
			"StopPodSandbox", reclaimSentence, nil), checkExecEndsWithSandbox, Exec, HostProcesses),
		crash(facto("CRI-CRASH-026", "streams again from where it was streaming when it was killed",
			"kubectl exec", "A client whose stream was cut off comes again, and the container's stdin has not ended meanwhile.", nil), checkStreamsAgain, Survival, Streaming),
		crash(facto("CRI-CRASH-027", "forwards again to a Pod to which it was forwarding when it was killed",
			"kubectl port-forward", "A client whose connection was cut off comes again.", nil), checkForwardsAgain, Survival, PortForward, Isolation),
	}
}

// life identifies the run of its program that a container is in.
type life struct {
	startedAt int64
	pid       int // 0 if hidden
}

func (b *box) life(ctx context.Context) (l life, err error) {
	if !b.s.hidden() {
		if l.pid, err = b.pid(ctx); err != nil {
			return l, err
		}
	}
	st, err := b.status(ctx)
	l.startedAt = st.GetStartedAt()
	return l, err
}

// livesOn returns nil when the container runs, and its program was not restarted.
func (b *box) livesOn(ctx context.Context, was life) error {
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	if st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("ContainerStatus shows %v, want CONTAINER_RUNNING", st.GetState())
	}
	if st.GetStartedAt() != was.startedAt {
		return fmt.Errorf("ContainerStatus had %d as the time of the container's start, and has %d: it was started once", was.startedAt, st.GetStartedAt())
	}
	if b.s.hidden() {
		return nil
	}
	pids, err := b.pids()
	if err == nil && !slices.Contains(pids, was.pid) {
		return fmt.Errorf("the container's process was %d, and now there are %v", was.pid, pids)
	}
	return err
}

// killedIn kills the runtime while a call is in progress in a container, which must
// survive that, as must its program. begun returns once the call is in progress.
func (b *box) killedIn(ctx context.Context, call, begun func() error) error {
	was, err := b.life(ctx)
	if err != nil {
		return err
	}
	if err := b.s.killAt(ctx, call, begun); err != nil {
		return err
	}
	if err := b.livesOn(ctx, was); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return nil
}

// killAt kills the runtime, and restarts it, while a call is in progress. If the call
// ended before that, the error says why.
func (s *subject) killAt(ctx context.Context, call, begun func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- call() }()
	if err := begun(); err != nil {
		select {
		case early := <-ended:
			return errors.Join(err, early)
		default:
			return err
		}
	}
	s.process.Kill()
	s.in.Log.Debug("the call that was at work", "err", <-ended) // its outcome depends on the kill
	return s.restart(ctx)
}

// working returns a command that reports that it runs, and does not end by itself. Call
// it once for each container.
func (b *box) working() (call, begun func(context.Context) error) {
	dir := "/"
	if b.s.target.missing([]Feature{Isolation}) != nil {
		dir = b.s.in.TempDir // on this machine, like all files that the container sees
	}
	file := filepath.Join(dir, b.s.mark+"-works")
	call = func(ctx context.Context) error {
		_, err := b.s.execRaw(ctx, b, b.s.tool(), "do", "write "+file+" here", "leave ignore-term", "ignore-term")
		return err
	}
	begun = func(ctx context.Context) error {
		_, err := b.exec(ctx, "wait-file --timeout "+meetTime.String()+" "+file)
		return err
	}
	return call, begun
}

func checkKilledInExecSync(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	call, begun := b.working()
	return b.killedIn(ctx, func() error { return call(ctx) }, func() error { return begun(ctx) })
}

// checkExecEndsWithSandbox allows the sandbox to have ended with the runtime.
func checkExecEndsWithSandbox(ctx context.Context, s *subject) error {
	b, err := s.watched(ctx, forever)
	if err != nil {
		return err
	}
	call, begun := b.working()
	if err := s.killAt(ctx, func() error { return call(ctx) }, func() error { return begun(ctx) }); err != nil {
		return err
	}
	if err := s.removeAll(ctx); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if err := until(ctx, settleTime, b.ended); err != nil {
		return fmt.Errorf("behind StopPodSandbox: %w", err)
	}
	return nil
}

// talking streams to a program that echoes its input; its stdin stays open. begun returns
// once it has echoed the text.
func (b *box) talking(ctx context.Context, text string, open func() (string, error)) (call, begun func() error) {
	stdin, keep := io.Pipe()
	out := &watcher{}
	call = func() error {
		u, err := open()
		if err != nil {
			return err
		}
		go func() { _, _ = io.WriteString(keep, text) }() // ends with the pipe
		defer keep.Close()
		return stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdin: stdin, Stdout: out})
	}
	return call, func() error { return out.has(ctx, text) }
}

// copying is talking to a command of its own.
func (b *box) copying(ctx context.Context, text string) (call, begun func() error) {
	return b.talking(ctx, text, func() (string, error) {
		return b.execURL(ctx, "copy-stdin", &runtimeapi.ExecRequest{Stdin: true, Stdout: true})
	})
}

// attached is talking to the container's program, which copies its stdin.
func (b *box) attached(ctx context.Context, text string) (call, begun func() error) {
	return b.talking(ctx, text, func() (string, error) {
		resp, err := b.s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Stdin: true, Stdout: true})
		return resp.GetUrl(), err
	})
}

func checkKilledInExec(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	call, begun := b.copying(ctx, "before\n")
	return b.killedIn(ctx, call, begun)
}

// checkKilledInAttach uses a container without stdin: the end of stdin would be a reason
// for the program to exit.
func checkKilledInAttach(ctx context.Context, s *subject) error {
	b, err := s.printing(ctx)
	if err != nil {
		return err
	}
	out := &watcher{}
	call := func() error {
		resp, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Stdout: true})
		if err != nil {
			return fmt.Errorf("Attach: %w", err)
		}
		return stream(ctx, spdyDoor, resp.GetUrl(), remotecommand.StreamOptions{Stdout: out})
	}
	if err := b.killedIn(ctx, call, func() error { return out.has(ctx, "\n") }); err != nil {
		return err
	}
	if err := b.goesOn(ctx); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return nil
}

func checkStreamsAgain(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "copy-stdin", interactive(false))
	if err != nil {
		return err
	}
	execs, execBegun := b.copying(ctx, "before\n")
	attaches, attachBegun := b.attached(ctx, "before\n")
	both := func() error {
		other := make(chan error, 1)
		go func() { other <- attaches() }()
		return errors.Join(execs(), <-other)
	}
	if err := s.killAt(ctx, both, func() error { return errors.Join(execBegun(), attachBegun()) }); err != nil {
		return err
	}
	if err := b.streams(ctx); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return nil
}

// streams returns nil when streams to a command and to the container itself work.
func (b *box) streams(ctx context.Context) error {
	for _, talk := range []func(context.Context, string) (call, begun func() error){b.copying, b.attached} {
		each, leave := context.WithCancel(ctx)
		call, begun := talk(each, "again\n")
		ended := make(chan error, 1)
		go func() { ended <- call() }()
		err := begun()
		leave()
		if streamed := <-ended; err != nil {
			return errors.Join(err, streamed)
		}
	}
	return nil
}

func checkForwardsAgain(ctx context.Context, s *subject) error {
	p, port, err := s.forwardable(ctx)
	if err != nil {
		return err
	}
	address, stop, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	conn, err := connected(ctx, address)
	if err == nil {
		s.process.Kill()
		err = conn.Close()
	}
	stop()
	if err != nil {
		return err
	}
	if err := s.restart(ctx); err != nil {
		return err
	}
	if address, stop, err = p.forward(ctx, port); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	defer stop()
	return answers(ctx, address, "forwarded")
}

// connected returns an open connection on which a web server has already answered.
func connected(ctx context.Context, address string) (net.Conn, error) {
	if err := answers(ctx, address, "forwarded"); err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	err = errors.Join(conn.SetDeadline(time.Now().Add(netTime)), ask(conn))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ask requests a web server's page, and reads the answer or the beginning of it.
func ask(conn net.Conn) error {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 4096))
	return err
}
