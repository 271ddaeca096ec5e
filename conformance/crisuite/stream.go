package crisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	protocols "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamTime bounds one stream.
const streamTime = 8 * time.Second

func streamRules() []rule {
	return []rule{
		must("CRI-STREAM-001", "streams a command's stdin, stdout and stderr over SPDY, and its exit code",
			"Exec", "Exec prepares a streaming endpoint to execute a command in the container.", checkSPDY, Streaming),
		facto("CRI-STREAM-002", "streams a command over WebSocket as well",
			"kubelet API", "Clients of the kubelet's API stream over WebSocket, in the fourth version of the protocol, which the kubelet passes on.", checkWebSocket, Streaming),
		must("CRI-STREAM-003", "closes a command's stdin when the client does",
			"ExecRequest", "Whether to stream stdin.", checkStdinCloses, Streaming),
		must("CRI-STREAM-004", "gives a command a terminal, of the size that the client says",
			"ExecRequest", "Whether to exec the command in a TTY.", checkExecTTY, Streaming),
		must("CRI-STREAM-005", "tells a command's terminal its new size",
			"ExecRequest", "Whether to exec the command in a TTY.", checkResize, Streaming),
		must("CRI-STREAM-006", "refuses a terminal with a stderr of its own",
			"ExecRequest, AttachRequest", "If `tty` is true, `stderr` MUST be false. Multiplexing is not supported in this case.", checkTTYStderr, Streaming),
		must("CRI-STREAM-007", "refuses a stream of nothing",
			"ExecRequest, AttachRequest", "One of `stdin`, `stdout`, and `stderr` MUST be true.", checkNoStreams, Streaming),
		must("CRI-STREAM-008", "attaches to a running container's streams",
			"Attach", "Attach prepares a streaming endpoint to attach to a running container.", checkAttach, Streaming),
		heavy(facto("CRI-STREAM-009", "ends a container's stdin when its only client of stdinOnce leaves",
			"stdinOnce", "With stdinOnce the first client that attaches has the container's stdin for itself, and its end is the stdin's.", checkStdinOnce, Streaming)),
		heavy(facto("CRI-STREAM-010", "keeps a container's stdin open for the next client without stdinOnce",
			"stdin", "Without stdinOnce the container's stdin outlives each client.", checkStdinStays, Streaming)),
		facto("CRI-STREAM-011", "gives out a URL that serves once",
			"streaming", "Who reads a log with the URL in it must not be able to use it.", checkURLOnce, Streaming),
		heavy(facto("CRI-STREAM-012", "lets a client that attaches leave without harm to the container",
			"kubectl attach", "A client may go at any time.", checkDetach, Streaming)),
		must("CRI-STREAM-014", "tells a container's terminal the size of the client that attaches, and a new one",
			"AttachRequest", "Whether the process being attached is running in a TTY.", checkAttachResize, Streaming, Isolation),
		heavy(facto("CRI-STREAM-013", "streams much without losing a byte",
			"kubectl cp", "Files are copied through a command's stdout.", checkMuch, Streaming)),
	}
}

// door opens streams in one protocol.
type door func(u *url.URL) (remotecommand.Executor, error)

func spdyDoor(u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
}

// webSocketDoor speaks v4: only API servers speak the fifth version.
func webSocketDoor(u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, u.String(), protocols.StreamProtocolV4Name)
}

// stream runs a stream to its end.
func stream(ctx context.Context, open door, rawURL string, o remotecommand.StreamOptions) error {
	u, err := url.Parse(rawURL)
	if err != nil {
		return err
	}
	if u.Host == "" {
		return fmt.Errorf("the URL %q is not fully qualified", rawURL)
	}
	ex, err := open(u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	err = ex.StreamWithContext(ctx, o)
	if ctx.Err() != nil {
		return fmt.Errorf("the stream has not ended after %v: %w", streamTime, err)
	}
	return err
}

// execURL requests a stream to podtool.
func (b *box) execURL(ctx context.Context, verb string, req *runtimeapi.ExecRequest) (string, error) {
	req.ContainerId, req.Cmd = b.id, append([]string{b.s.tool()}, strings.Fields(verb)...)
	resp, err := b.s.Runtime.Exec(ctx, req)
	if err != nil {
		return "", fmt.Errorf("Exec: %w", err)
	}
	return resp.GetUrl(), nil
}

func checkSPDY(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	u, err := b.execURL(ctx, "copy-stdin", &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	var out, errOut bytes.Buffer
	err = stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdin: strings.NewReader("from the client"), Stdout: &out, Stderr: &errOut})
	if err != nil {
		return fmt.Errorf("of a command that copies its stdin: %w", err)
	}
	if out.String() != "from the client" || errOut.Len() > 0 {
		return fmt.Errorf("a command that copies its stdin gave %q and %q", out.String(), errOut.String())
	}
	return b.streamsCode(ctx, spdyDoor)
}

// checkWebSocket closes no stdin, which this version of the protocol cannot do.
func checkWebSocket(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	u, err := b.execURL(ctx, "echo over there", &runtimeapi.ExecRequest{Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := stream(ctx, webSocketDoor, u, remotecommand.StreamOptions{Stdout: &out, Stderr: io.Discard}); err != nil {
		return err
	}
	if out.String() != "over there\n" {
		return fmt.Errorf("the stream of a command that prints has %q", out.String())
	}
	return b.streamsCode(ctx, webSocketDoor)
}

func (b *box) streamsCode(ctx context.Context, open door) error {
	u, err := b.execURL(ctx, "cat /no/such/file", &runtimeapi.ExecRequest{Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	var out, errOut bytes.Buffer
	err = stream(ctx, open, u, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	var code utilexec.CodeExitError
	switch {
	case err == nil:
		return errors.New("the stream of a command that ends with code 1 ended without it")
	case !errors.As(err, &code) || code.Code != 1:
		return fmt.Errorf("the stream of a command that ends with code 1: %w", err)
	}
	if !strings.Contains(errOut.String(), "no such file") || out.Len() > 0 {
		return fmt.Errorf("a command that complains gave %q to stdout and %q to stderr", out.String(), errOut.String())
	}
	return nil
}

func checkStdinCloses(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	u, err := b.execURL(ctx, "copy-stdin", &runtimeapi.ExecRequest{Stdin: true, Stdout: true})
	if err != nil {
		return err
	}
	if err := stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard}); err != nil {
		return fmt.Errorf("the client closed stdin, and the command reads it to its end: %w", err)
	}
	return nil
}

// sizes are the sizes of a client's terminal.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// watcher keeps what is written, and can wait for a text.
type watcher struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(p)
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

func (w *watcher) has(ctx context.Context, text string) error {
	return until(ctx, streamTime/2, func() error {
		if got := w.String(); !strings.Contains(got, text) {
			return fmt.Errorf("the stream has no %q: %.200q", text, got)
		}
		return nil
	})
}

// terminal runs the window command in a terminal and has look check it.
func (b *box) terminal(ctx context.Context, look func(sizes, *watcher) error) error {
	u, err := b.execURL(ctx, "window", &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		return err
	}
	return atTerminal(ctx, u, look)
}

// atTerminal streams with a terminal of an unusual size, and has look check it.
func atTerminal(ctx context.Context, u string, look func(sizes, *watcher) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	size, out := make(sizes, 2), &watcher{}
	size <- remotecommand.TerminalSize{Width: 91, Height: 37}
	stdin, keep := io.Pipe()
	defer keep.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdin: stdin, Stdout: out, Tty: true, TerminalSizeQueue: size})
	}()
	err := look(size, out)
	if err != nil {
		select {
		case streamed := <-ended:
			err = errors.Join(err, streamed)
		default:
		}
	}
	close(size)
	return err
}

func checkExecTTY(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	return b.terminal(ctx, func(_ sizes, out *watcher) error { return out.has(ctx, "91 columns, 37 rows") })
}

func checkResize(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	return b.terminal(ctx, func(size sizes, out *watcher) error {
		if err := out.has(ctx, "columns"); err != nil {
			return err
		}
		size <- remotecommand.TerminalSize{Width: 112, Height: 43}
		return out.has(ctx, "112 columns, 43 rows")
	})
}

func checkAttachResize(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "window", func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true })
	if err != nil {
		return err
	}
	if err := b.says(ctx, "columns"); err != nil {
		return err
	}
	resp, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		return fmt.Errorf("Attach: %w", err)
	}
	return atTerminal(ctx, resp.GetUrl(), func(size sizes, out *watcher) error {
		if err := out.has(ctx, "91 columns, 37 rows"); err != nil {
			return err
		}
		size <- remotecommand.TerminalSize{Width: 112, Height: 43}
		return out.has(ctx, "112 columns, 43 rows")
	})
}

func checkTTYStderr(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	if _, err := b.execURL(ctx, "echo x", &runtimeapi.ExecRequest{Tty: true, Stdout: true, Stderr: true}); err == nil {
		return errors.New("Exec with a terminal and stderr succeeded")
	}
	if _, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Tty: true, Stdout: true, Stderr: true}); err == nil {
		return errors.New("Attach with a terminal and stderr succeeded")
	}
	return nil
}

func checkNoStreams(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	if _, err := b.execURL(ctx, "echo x", &runtimeapi.ExecRequest{}); err == nil {
		return errors.New("Exec without a stream succeeded")
	}
	if _, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id}); err == nil {
		return errors.New("Attach without a stream succeeded")
	}
	return nil
}

func interactive(once bool) edit {
	return func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, once }
}

// attach attaches to a container's streams, and sends it a text.
func (b *box) attach(ctx context.Context, text string, stdout io.Writer) error {
	resp, err := b.s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Stdin: true, Stdout: true})
	if err != nil {
		return fmt.Errorf("Attach: %w", err)
	}
	return stream(ctx, spdyDoor, resp.GetUrl(), remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: stdout})
}

func checkAttach(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "copy-stdin", interactive(true))
	if err != nil {
		return err
	}
	out := &watcher{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- b.attach(ctx, "over there\n", out) }()
	if err := out.has(ctx, "over there\n"); err != nil {
		select {
		case streamed := <-ended:
			return errors.Join(err, streamed)
		default:
			return err
		}
	}
	return b.says(ctx, "over there") // the log has it, too
}

func checkStdinOnce(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "copy-stdin", interactive(true))
	if err != nil {
		return err
	}
	if err := b.attach(ctx, "once\n", io.Discard); err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err != nil {
		return fmt.Errorf("its client has left: %w", err)
	}
	if st.GetExitCode() != 0 {
		return fmt.Errorf("the program that reads its stdin to the end ended with code %d", st.GetExitCode())
	}
	return nil
}

func checkStdinStays(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "copy-stdin", interactive(false))
	if err != nil {
		return err
	}
	for _, text := range []string{"first\n", "second\n"} {
		each, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- b.attach(each, text, io.Discard) }()
		err := b.says(ctx, strings.TrimSpace(text))
		leave()
		s.in.Log.Debug("the client left", "err", <-ended)
		if err != nil {
			return err
		}
	}
	return b.alive(ctx)
}

func checkURLOnce(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	u, err := b.execURL(ctx, "echo x", &runtimeapi.ExecRequest{Stdout: true})
	if err != nil {
		return err
	}
	if err := stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
		return err
	}
	if err := stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
		return errors.New("the URL of a stream served a second time")
	}
	return nil
}

func checkDetach(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "lines --interval 20ms 0")
	if err != nil {
		return err
	}
	resp, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: b.id, Stdout: true})
	if err != nil {
		return fmt.Errorf("Attach: %w", err)
	}
	each, leave := context.WithCancel(ctx)
	out, ended := &watcher{}, make(chan error, 1)
	go func() {
		ended <- stream(each, spdyDoor, resp.GetUrl(), remotecommand.StreamOptions{Stdout: out})
	}()
	err = out.has(ctx, "\n")
	leave()
	s.in.Log.Debug("the client left", "err", <-ended)
	if err != nil {
		return err
	}
	before, err := b.lines()
	if err != nil {
		return err
	}
	return until(ctx, endTime, func() error {
		now, err := b.lines()
		if err == nil && now <= before {
			return fmt.Errorf("behind the client's leaving the container's log stays at %d lines", now)
		}
		return err
	})
}

func checkMuch(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	const much = 8 << 20
	u, err := b.execURL(ctx, fmt.Sprintf("fill %d", much), &runtimeapi.ExecRequest{Stdout: true})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := stream(ctx, spdyDoor, u, remotecommand.StreamOptions{Stdout: &out}); err != nil {
		return err
	}
	if out.Len() != much || strings.Trim(out.String(), "x") != "" {
		return fmt.Errorf("of %d bytes %d came", much, out.Len())
	}
	return nil
}
