package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestPlace: the keeper is where its launcher was put, and is not started when
// that failed.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	h := &host{Client: keeper.NewClient(dir), t: t, dir: dir, binary: tool("keeper")}
	l := keeper.Launch{Binary: h.binary, State: dir, Run: dir, Log: dir + "/log"}
	full := fault.Exhausted.Errorf("no place")
	l.Place = func(context.Context, int) error { return full }
	if err := keeper.Start(t.Context(), l); !errors.Is(err, full) {
		t.Errorf("%v, want the error of Place", err)
	}
	if _, err := h.Hello(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a keeper without a place: %v", err)
	}
	limit := unix.Rlimit{Cur: 4096, Max: 8192} // inherited, as a cgroup is
	l.Place = func(_ context.Context, pid int) error { return unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil) }
	h.must(keeper.Start(t.Context(), l))
	hello, err := h.Hello(t.Context())
	h.must(err)
	var got unix.Rlimit
	if err := unix.Prlimit(hello.PID, unix.RLIMIT_CORE, nil, &got); err != nil || got != limit {
		t.Errorf("the keeper's limit is %+v, %v; want its launcher's, %+v", got, err, limit)
	}
	h.must(h.Shutdown(t.Context()))
}

// held begins a script that waits for release.
const held = "until [ -e released ]; do sleep 0.01; done; "

func TestExits(t *testing.T) {
	h := newHost(t)
	for script, code := range map[string]int32{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137, "kill -15 $$": 143} {
		id := fmt.Sprintf("code%d", code)
		h.start(id, "echo "+id+"; "+script)
		if got := h.exit(id); got.Code != code || got.ID != id || time.Since(got.At) > time.Minute {
			t.Errorf("%q ended as %+v, want code %d", script, got, code)
		}
		if got := h.text(id); got != id+"\n" {
			t.Errorf("%q: the log is %q when the exit is known", script, got)
		}
		// A second start is no start.
		if st := h.start(id, "exit 99"); st.Exit == nil || st.Exit.Code != code {
			t.Errorf("%q: starting it again gives %+v", script, st)
		}
	}
}

// TestManyAtOnce: short lives and many of them, so that process ids and exits
// meet in every order.
func TestManyAtOnce(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 12 {
				id, code := fmt.Sprintf("c%d-%d", w, i), int32(w*12+i)
				if _, err := h.container(id, fmt.Sprintf("exit %d", code), nil); err != nil {
					t.Error(err)
					return
				}
				if e, err := h.Wait(t.Context(), id); err != nil || e.Code != code {
					t.Errorf("%s ended with %d, %v; want %d", id, e.Code, err, code)
				}
				if err := h.Remove(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := h.children(); len(left) > 0 {
		t.Errorf("the keeper still has children: %v", left)
	}
}

func TestStrangersAreReaped(t *testing.T) {
	h := newHost(t)
	// The daemon's parent is the container, which ends first.
	h.start("parent", "(sleep 0.2; exit 1) >/dev/null 2>&1 & exit 0")
	h.exit("parent")
	if left := h.children(); len(left) > 0 {
		t.Errorf("an orphan was not reaped: %v", left)
	}
}

// TestExitsSurviveTheKeeper: an exit is journalled before anybody hears of it,
// and stays until it is acknowledged.
func TestExitsSurviveTheKeeper(t *testing.T) {
	h := newHost(t)
	h.start("one", "exit 11")
	h.start("two", "exit 12")
	h.exit("one")
	h.exit("two")
	h.must(h.Ack(t.Context(), "one"))
	h.killKeeper()
	ctx, cancel := context.WithCancel(t.Context())
	var seen []keeper.Exit
	h.must(h.Watch(ctx, func(e keeper.Exit) error {
		seen = append(seen, e)
		cancel()
		return nil
	}))
	if len(seen) != 1 || seen[0].ID != "two" || seen[0].Code != 12 {
		t.Fatalf("the next keeper reports %+v, want the exit of two", seen)
	}
	h.must(h.Ack(t.Context(), "two"))
	h.killKeeper()
	if list, err := h.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("acknowledged exits come back: %+v, %v", list, err)
	}
}

func TestWatchIsOrderedAndComplete(t *testing.T) {
	h := newHost(t)
	var want []string
	for i := range 5 {
		id := fmt.Sprintf("past%d", i)
		h.start(id, "exit 0")
		h.exit(id)
		want = append(want, id)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		for i := range 5 {
			id := fmt.Sprintf("future%d", i)
			_, _ = h.container(id, "exit 0", nil)
			_, _ = h.Wait(ctx, id)
		}
	}()
	for i := range 5 {
		want = append(want, fmt.Sprintf("future%d", i))
	}
	var got []string
	h.must(h.Watch(ctx, func(e keeper.Exit) error {
		if got = append(got, e.ID); len(got) == len(want) {
			cancel()
		}
		return nil
	}))
	if !slices.Equal(got, want) {
		t.Errorf("watched %v, want %v", got, want)
	}
}

func TestLogIsComplete(t *testing.T) {
	h := newHost(t)
	h.start("much", `i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "line $i"; done; printf 'no end'`)
	h.exit("much")
	got := h.text("much")
	var want strings.Builder
	for i := 1; i <= 20000; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	want.WriteString("no end")
	if got != want.String() {
		t.Errorf("the log has %d bytes, want %d", len(got), want.Len())
	}
}

// TestSlowAttach: a client that does not read holds nobody up.
func TestSlowAttach(t *testing.T) {
	h := newHost(t)
	h.start("chatty", held+"i=0; while [ $i -lt 80 ]; do i=$((i+1)); head -c 65536 /dev/zero | tr '\\0' x; echo; done")
	a, err := h.Attach(t.Context(), "chatty", false)
	h.must(err)
	defer a.Close()
	h.release("chatty")
	h.exit("chatty") // within its ten seconds
	err = a.Copy(io.Discard, io.Discard)
	if !errors.Is(err, fault.Aborted) {
		t.Errorf("the slow client is told %v, want fault.Aborted", err)
	}
}

func TestAttachStdin(t *testing.T) {
	h := newHost(t)
	_, err := h.container("cat", "cat; echo end >&2", func(r *keeper.StartRequest) { r.Stdin, r.StdinOnce = true, true })
	h.must(err)
	a, err := h.Attach(t.Context(), "cat", true)
	h.must(err)
	defer a.Close()
	_, err = a.Write(bytes.Repeat([]byte("0123456789abcde\n"), 10000))
	h.must(err)
	h.must(a.CloseStdin())
	var out, errOut bytes.Buffer
	h.must(a.Copy(&out, &errOut))
	if out.Len() != 160000 || errOut.String() != "end\n" {
		t.Errorf("%d bytes and %q came back, want 160000 and the end", out.Len(), errOut.String())
	}
	if e := h.exit("cat"); e.Code != 0 {
		t.Errorf("it ended with %d", e.Code)
	}
}

func TestStartFails(t *testing.T) {
	h := newHost(t)
	noProgram := filepath.Join(t.TempDir(), "text")
	h.must(os.WriteFile(noProgram, []byte("no program"), 0o700))
	for name, args := range map[string][]string{
		"runtime fails":         {"/bin/sh", "-c", "echo what went wrong >&2; exit 1"},
		"runtime is missing":    {"/not/there"},
		"runtime is no program": {noProgram},
		"no pid file":           {"/bin/true"},
		"pid of another":        {"/bin/sh", "-c", "echo 1 >pid"},
		"pid is nonsense":       {"/bin/sh", "-c", "echo x >pid"},
	} {
		_, err := h.container("fails", "", func(r *keeper.StartRequest) { r.Command.Args = args })
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if name == "runtime fails" && !strings.Contains(err.Error(), "what went wrong") {
			t.Errorf("%s: the error is %v", name, err)
		}
		if (name == "runtime is missing" || name == "runtime is no program") && !errors.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s: the error is %v (%s), want %s", name, err, fault.Of(err), fault.FailedPrecondition)
		}
		if _, err := h.Wait(t.Context(), "fails"); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: the keeper still has it: %v", name, err)
		}
		h.must(os.RemoveAll(h.dir + "/fails"))
	}
}

// TestStalePIDFile: what an earlier attempt has left is gone before anything is
// held of a start, so that no keeper takes it for the start's own.
func TestStalePIDFile(t *testing.T) {
	h := newHost(t)
	pid := filepath.Join(h.dir, "c", "pid")
	h.must(os.MkdirAll(filepath.Dir(pid), 0o700))
	h.must(os.WriteFile(pid, []byte("1"), 0o600))
	// Opening the log comes after that and before the OCI runtime.
	if _, err := h.container("c", "exit 0", func(r *keeper.StartRequest) { r.Log = h.dir }); err == nil {
		t.Error("a directory was taken for a log")
	}
	if _, err := os.Stat(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old pid file is still there: %v", err)
	}
}

func TestShutdownOnlyWhenNothingRuns(t *testing.T) {
	h := newHost(t)
	h.start("runs", "exec sleep 1000")
	if err := h.Shutdown(t.Context()); !errors.Is(err, fault.FailedPrecondition) {
		t.Fatalf("shutdown with a container says %v", err)
	}
	h.terminate("runs")
	if e := h.exit("runs"); e.Code != 143 {
		t.Errorf("it ended with %d, want 143", e.Code)
	}
	h.terminate("runs") // ended: nothing to do
	h.must(h.Remove(t.Context(), "runs"))
	h.must(h.Remove(t.Context(), "runs"))
	h.must(h.Shutdown(t.Context()))
	h.must(h.Shutdown(t.Context()))
}

// TestOOMScore: what the keeper starts is not protected as the keeper is, whenever
// the OCI runtime forks.
func TestOOMScore(t *testing.T) {
	h := newHost(t)
	score := 321
	// head reads once: a second read, which cat makes, may see the end of another value.
	const script = `echo 7 >/proc/$$/oom_score_adj; touch set; while now=$(head -n 1 /proc/$$/oom_score_adj); [ "$now" = 7 ]; do sleep 0.01; done; echo $now`
	_, err := h.container("c", "", func(r *keeper.StartRequest) {
		r.Command.OOMScoreAdj = &score
		// As one that forks before it has the score: its child has another one.
		r.Command.Args = []string{"/bin/sh", "-c", `"$0" "$1"; while ! [ -e set ]; do sleep 0.01; done`, tool("standin"), script}
	})
	h.must(err)
	h.exit("c")
	if got := h.text("c"); got != "321\n" {
		t.Errorf("the score is %q, want 321", got)
	}
}

// TestRuntimeForks: an OCI runtime may end before a process of its own that is
// the container's parent does.
func TestRuntimeForks(t *testing.T) {
	h := newHost(t)
	const script = `(sh -c 'sleep 0.4; exit 7' & echo $! >pid; sleep 0.2) & while ! [ -s pid ]; do sleep 0.01; done`
	_, err := h.container("c", "", func(r *keeper.StartRequest) { r.Command.Args = []string{"/bin/sh", "-c", script} })
	h.must(err)
	if e := h.exit("c"); e.Code != 7 {
		t.Errorf("the container ended with %d, want 7", e.Code)
	}
}

func TestSecondKeeperIsRefused(t *testing.T) {
	h := newHost(t)
	first, err := h.Hello(t.Context())
	h.must(err)
	h.startKeeper()
	second, err := h.Hello(t.Context())
	if err != nil || first != second {
		t.Errorf("the keeper changed from %+v to %+v, %v", first, second, err)
	}
}

// TestGarbage: whoever may connect may send anything; the keeper lives on.
func TestGarbage(t *testing.T) {
	h := newHost(t)
	before, err := h.Hello(t.Context())
	h.must(err)
	for _, message := range []string{
		"", "x", "\xff\xff\xff\xff", "\x00\x00\x00\x02{}", "\x00\x00\x00\x04null", "\x00\x00\x00\x09not json!",
		frame(`{"version":1,"op":"start"}`), frame(`{"version":1,"op":"start","id":"c","start":{}}`),
		frame(`{"version":1,"op":"start","id":" ledger","start":{"command":{"args":["/bin/true"],"pidFile":"pid"}}}`),
		frame(`{"version":1,"op":"runtime","command":{}}`), frame(`{"version":2,"op":"replace"}`), frame(`{"version":1,"op":"exec"}`), frame(`{"version":1,"op":"runtime"}`),
		frame(`{"version":1,"op":"attach","id":"none"}`), frame(`{"version":99,"op":"hello"}`), frame(`{"version":1,"op":"?"}`),
	} {
		conn, err := net.Dial("unix", h.dir+"/keeper.sock")
		h.must(err)
		_, err = io.WriteString(conn, message)
		h.must(err)
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = io.ReadAll(conn)
		h.must(conn.Close())
	}
	if now, err := h.Hello(t.Context()); err != nil || now != before {
		t.Errorf("the keeper changed from %+v to %+v, %v", before, now, err)
	}
	for name, change := range map[string]func(*keeper.StartRequest){
		"no program":        func(r *keeper.StartRequest) { r.Command.Args = nil },
		"no pid file":       func(r *keeper.StartRequest) { r.Command.PIDFile = "" },
		"a pid file beyond": func(r *keeper.StartRequest) { r.Command.PIDFile = "../pid" },
		"a console beyond":  func(r *keeper.StartRequest) { r.Command.Console = "/console" },
	} {
		if _, err := h.container("c", "exit 0", change); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want %q", name, err, fault.Invalid)
		}
	}
}

// TestSignal: a signal tells of the end that it brings about, if that comes in time.
func TestSignal(t *testing.T) {
	h := newHost(t)
	h.start("quick", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	h.start("slow", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
	h.says("quick", "ready\n")
	h.says("slow", "ready\n")
	if e := h.endedBy("quick", unix.SIGTERM); e.Code != 3 {
		t.Errorf("the quick one: %+v", e)
	}
	if again, _, err := h.Signal(t.Context(), "quick", unix.SIGKILL, time.Second); err != nil || again == nil || again.Code != 3 {
		t.Errorf("the quick one again: %+v, %v", again, err)
	}
	if e, _, err := h.Signal(t.Context(), "slow", unix.SIGTERM, 50*time.Millisecond); err != nil || e != nil {
		t.Errorf("the slow one: %+v, %v", e, err)
	}
	if e := h.endedBy("slow", unix.SIGKILL); e.Code != 137 {
		t.Errorf("the slow one, killed: %+v", e)
	}
	if e, _, err := h.Signal(t.Context(), "none", unix.SIGKILL, time.Second); !errors.Is(err, fault.NotFound) {
		t.Errorf("one that is not there: %+v, %v", e, err)
	}
}

// TestSignalIsSentOnce: a keeper that goes away while it waits for the end is not
// asked for the signal again; whoever stops a program would hurry it.
func TestSignalIsSentOnce(t *testing.T) {
	h := newHost(t)
	h.start("counts", "n=0; trap 'n=$((n+1)); echo TERM $n' TERM; echo ready; while :; do sleep 0.01; done")
	h.says("counts", "ready\n")
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		h.says("counts", "ready\nTERM 1\n")
		time.Sleep(100 * time.Millisecond) // the client has been told so, too
		h.kill(itself)
	}()
	if e, _, err := h.Signal(t.Context(), "counts", unix.SIGTERM, time.Second); err != nil || e != nil {
		t.Errorf("with a keeper that is killed: %+v, %v", e, err)
	}
	<-killed
	time.Sleep(200 * time.Millisecond) // for a second one
	if e := h.endedBy("counts", unix.SIGKILL); e.Code != 137 {
		t.Errorf("killed: %+v", e)
	}
	if got := h.text("counts"); got != "ready\nTERM 1\n" {
		t.Errorf("it has got %q", got)
	}
}

func TestNoKeeperInTheRunDirectory(t *testing.T) {
	dir := t.TempDir()
	_, err := keeper.NewClient(dir).Hello(t.Context())
	if !errors.Is(err, fault.Unavailable) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
	if socket := filepath.Join(dir, "keeper.sock"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q: no such file", socket)) {
		t.Errorf("the error does not name %s: %v", socket, err)
	}
}
