package cni_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/shimwire"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

// served is a server of one plugin, as a shim sees it.
type served struct {
	*testing.T
	socket string
	log    syncbuf.Buffer
}

func serve(t *testing.T, p *cni.Plugin) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{T: t, socket: filepath.Join(dir, p.Name+".sock")}
	server := &cni.Server{Plugins: []*cni.Plugin{p}, Dir: dir, Logger: slog.New(slog.NewTextHandler(&s.log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// exchange sends a message and returns all of the answer.
func (s *served) exchange(message []byte) []byte {
	s.Helper()
	conn, err := net.Dial("unix", s.socket)
	for ; err != nil && s.Context().Err() == nil; conn, err = net.Dial("unix", s.socket) {
		time.Sleep(time.Millisecond) // it is on its way up
	}
	defer conn.Close()
	if _, err := conn.Write(message); err != nil {
		s.Error(err)
	}
	answer, _ := io.ReadAll(conn) // the server may go away, and says nothing then
	return answer
}

// call sends a request and returns the answer.
func (s *served) call(env map[string]string, stdin string) shimwire.Answer {
	s.Helper()
	r := shimwire.Request{Plugin: "p", Stdin: []byte(stdin)}
	for key, value := range env {
		r.Env = append(r.Env, key+"="+value)
	}
	answer := s.exchange(r.Append(nil))
	if len(answer) < shimwire.LengthSize {
		s.Errorf("the answer is %q", answer)
		return shimwire.Answer{}
	}
	a, ok := shimwire.ParseAnswer(answer[shimwire.LengthSize:])
	if !ok {
		s.Errorf("the answer is %q", answer)
	}
	return a
}

// TestServerBoundsCalls: no more than 64 at once, and none is lost.
func TestServerBoundsCalls(t *testing.T) {
	const most, all = 64, 80
	var running, peak atomic.Int32
	full := make(chan struct{})
	var once sync.Once // some end before the last ones begin, and then there are so many again
	release := make(chan struct{})
	s := serve(t, plugin(cni.Handlers[config]{Status: func(context.Context, *cni.Request, *config) error {
		n := running.Add(1)
		defer running.Add(-1)
		for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
		}
		if n == most {
			once.Do(func() { close(full) })
		}
		<-release
		return nil
	}}))
	var calls sync.WaitGroup
	for range all {
		calls.Go(func() {
			if a := s.call(env("STATUS"), request("")); !a.OK {
				t.Errorf("%s", a.Stdout)
			}
		})
	}
	<-full
	time.Sleep(20 * time.Millisecond) // for more to come, if they could
	close(release)
	calls.Wait()
	if peak.Load() != most {
		t.Errorf("%d calls at once", peak.Load())
	}
}

// TestServerAnswersForAHandlerThatExits: the runtime hears of it, and the rollback is done.
func TestServerAnswersForAHandlerThatExits(t *testing.T) {
	undone := make(chan bool, 1)
	s := serve(t, plugin(cni.Handlers[config]{Add: func(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { undone <- true; return nil })
		runtime.Goexit()
		return nil, nil
	}}))
	if a := s.call(env("ADD"), request("")); a.OK || !strings.Contains(string(a.Stdout), "ended without a result") || len(undone) != 1 {
		t.Errorf("undone %d times: %+v, %s", len(undone), a.OK, a.Stdout)
	}
}

// TestServerRefusesStrangers: what is no request gets no answer and a line in the
// log, and the next request is served.
func TestServerRefusesStrangers(t *testing.T) {
	s := serve(t, plugin(cni.Handlers[config]{}))
	newer := (&shimwire.Request{Plugin: "p"}).Append(nil)
	newer = bytes.Replace(newer, []byte(shimwire.Protocol), []byte("nodekit-cni/9"), 1)
	for name, c := range map[string]struct {
		message []byte
		says    string
	}{
		"oversize":         {binary.BigEndian.AppendUint32(nil, shimwire.MaxSize+1), "larger than"},
		"another protocol": {newer, "do not belong together"},
		"no request":       {append(binary.BigEndian.AppendUint32(nil, 3), "abc"...), "do not belong together"},
	} {
		if answer := s.exchange(c.message); len(answer) > 0 || !strings.Contains(s.log.String(), c.says) {
			t.Errorf("%s: answer %q, log %s", name, answer, s.log.String())
		}
	}
	if a := s.call(env("STATUS"), request("")); !a.OK {
		t.Errorf("a request after those: %s", a.Stdout)
	}
}

// TestServerIgnoresSilence: who connects and goes without a word is no error, who begins a
// request is.
func TestServerIgnoresSilence(t *testing.T) {
	s := serve(t, plugin(cni.Handlers[config]{}))
	s.call(env("STATUS"), request("")) // and by now it is up
	for message, want := range map[string]int{"": 0, "\x00": 1, "\x00\x00\x00\x03": 1, "\x00\x00\x00\x03ab": 1} {
		before := strings.Count(s.log.String(), "level=ERROR")
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, message)
		if cerr := conn.CloseWrite(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		_, _ = io.ReadAll(conn) // until the server has closed it
		_ = conn.Close()
		for range 100 { // it logs after that
			if strings.Count(s.log.String(), "level=ERROR") > before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if got := strings.Count(s.log.String(), "level=ERROR") - before; got != want {
			t.Errorf("%q: %d errors, log %s", message, got, s.log.String())
		}
	}
}

// TestServerHandsOnStderr has a handler log while a delegate cries, more than is
// handed on.
func TestServerHandsOnStderr(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nyes crying | head -c 2000000 >&2\n"
	if err := os.WriteFile(filepath.Join(bin, "loud"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := serve(t, plugin(cni.Handlers[config]{Status: func(ctx context.Context, r *cni.Request, _ *config) error {
		r.Log.Info("a handler's line") // before there is more than is handed on
		ended := make(chan error)
		go func() { ended <- r.Delegate("loud").Status(ctx) }()
		for {
			r.Log.Info("another one")
			select {
			case err := <-ended:
				return err
			default:
			}
		}
	}}))
	e := env("STATUS")
	e["CNI_PATH"] = bin
	a := s.call(e, request(""))
	text := string(a.Stderr)
	if !a.OK || len(text) > 1<<20+100 || !strings.Contains(text, "a handler's line") || !strings.Contains(text, "more was written") {
		t.Errorf("%s, %d bytes on stderr: %.200s", a.Stdout, len(text), text)
	}
}

// TestExecBoundsStdout: a plugin that babbles does not take the memory of the node.
func TestExecBoundsStdout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "babbling")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexec yes babble\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("it was not stopped"))
	defer cancel()
	out, err := cni.Exec(ctx, file, nil, nil, nil)
	if cni.CodeOf(err) != cni.CodeDelegate || !strings.Contains(fmt.Sprint(err), "bytes to stdout") || len(out) > 16<<20 {
		t.Errorf("%v, %d bytes", err, len(out))
	}
}
