package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/daemon"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/leak"
)

// The test binary is also the keeper, so that the race detector sees it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"start", "anchor", "run", "true"}, os.Args[1]) {
		if err := daemon.Main(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(runTests(m))
}

// toolsDir has the programs keeper and standin while the tests run.
const toolsDir = "NODEKIT_KEEPER_TEST_TOOLS"

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nodekit-keeper-tools-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "./testdata/standin", "./testdata/scribe", "../../../cmd/keeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the test programs: %v\n%s", err, out))
	}
	os.Setenv(toolsDir, dir)
	return m.Run()
}

func tool(name string) string { return filepath.Join(os.Getenv(toolsDir), name) }

type host struct {
	*keeper.Client
	t           *testing.T
	dir, binary string
	launch      keeper.Launch
}

func newHost(t *testing.T) *host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newHostOf(t, self)
}

// newHostOf starts that keeper program.
func newHostOf(t *testing.T, binary string) *host {
	t.Helper()
	h := unstartedHostOf(t, binary)
	h.startKeeper()
	return h
}

func unstartedHost(t *testing.T) *host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return unstartedHostOf(t, self)
}

func unstartedHostOf(t *testing.T, binary string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{Client: keeper.NewClient(dir), t: t, dir: dir, binary: binary}
	h.launch = keeper.Launch{Binary: binary, State: dir, Run: dir, Log: dir + "/log"}
	t.Cleanup(h.audit())
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/log")
			t.Logf("the keeper says:\n%s", log)
		}
		ctx := context.Background()
		list, err := h.List(ctx)
		if errors.Is(err, fault.Unavailable) {
			return // the test ended it
		}
		for _, st := range list {
			err = errors.Join(err, h.Remove(ctx, st.ID))
		}
		if err = errors.Join(err, h.Shutdown(ctx)); err != nil {
			log, _ := os.ReadFile(dir + "/log")
			t.Errorf("ending the keeper: %v\n%s", err, log)
		}
	})
	return h
}

// audit returns what looks for processes that are left: what a container leaves, whose
// removal kills the first of its processes alone here, or a keeper.
func (h *host) audit() func() {
	h.t.Helper()
	before, err := leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Process}, Marker: h.dir, MarkedOnly: true})
	h.must(err)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, l := range leak.Settled(ctx, before) {
			h.t.Errorf("left behind: %v", l)
		}
	}
}

func (h *host) startKeeper() {
	h.t.Helper()
	h.must(keeper.Start(h.t.Context(), h.launch))
}

func (h *host) killKeeper() {
	h.t.Helper()
	hello, err := h.Hello(h.t.Context())
	h.must(err)
	h.must(unix.Kill(hello.PID, unix.SIGKILL))
	for pid := hello.PID; hello.PID == pid; {
		hello, err = h.Hello(h.t.Context())
		h.must(err)
	}
}

// terminate does not wait for the end.
func (h *host) terminate(id string) {
	h.t.Helper()
	_, _, err := h.Signal(h.t.Context(), id, unix.SIGTERM, 0)
	h.must(err)
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) container(id, script string, change func(*keeper.StartRequest)) (keeper.Status, error) {
	dir := filepath.Join(h.dir, id)
	h.must(os.MkdirAll(dir, 0o700))
	r := &keeper.StartRequest{
		Log:     dir + "/log",
		Command: keeper.Command{Args: []string{tool("standin"), script}, Dir: dir, PIDFile: "pid"},
	}
	if change != nil {
		change(r)
	}
	return h.Start(h.t.Context(), id, r)
}

func (h *host) start(id, script string) keeper.Status {
	h.t.Helper()
	st, err := h.container(id, script, nil)
	h.must(err)
	return st
}

func (h *host) exit(id string) keeper.Exit {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	e, err := h.Wait(ctx, id)
	h.must(err)
	return *e
}

func (h *host) release(id string) {
	h.t.Helper()
	h.must(os.WriteFile(filepath.Join(h.dir, id, "released"), nil, 0o600))
}

// says waits for the text to be all that the container has written.
func (h *host) says(id, text string) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); h.text(id) != text; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("%s says %q, want %q", id, h.text(id), text)
		}
	}
}

// text is a log's text without the heads of its records.
func (h *host) text(id string) string {
	h.t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.dir, id, "log"))
	h.must(err)
	var b strings.Builder
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(line, " ", 4)
		if f[2] == "P" {
			f[3] = strings.TrimSuffix(f[3], "\n")
		}
		b.WriteString(f[3])
	}
	return b.String()
}

// children are the keeper's, zombies included.
func (h *host) children() (list []string) {
	h.t.Helper()
	hello, err := h.Hello(h.t.Context())
	h.must(err)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", hello.PID))
	h.must(err)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list = nil
		for _, f := range tasks {
			text, _ := os.ReadFile(f)
			list = append(list, strings.Fields(string(text))...)
		}
		if len(list) == 0 || time.Now().After(deadline) {
			return list
		}
	}
}

func frame(body string) string {
	return string([]byte{0, 0, byte(len(body) >> 8), byte(len(body))}) + body
}

// rss is the resident memory of a process in kB.
func (h *host) rss(pid int) int {
	h.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	h.must(err)
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(v)[0])
			h.must(err)
			return kb
		}
	}
	h.t.Fatal("no VmRSS")
	return 0
}

// endedBy ends a container by a signal, which tells of the end. It says nothing only
// when the moment that it has passes before, and then the end is waited for.
func (h *host) endedBy(id string, sig unix.Signal) keeper.Exit {
	h.t.Helper()
	begun := time.Now()
	e, _, err := h.Signal(h.t.Context(), id, sig, time.Second)
	h.must(err)
	switch {
	case e != nil:
		return *e
	case time.Since(begun) < time.Second:
		h.t.Fatalf("the signal does not tell how %s ends", id)
	}
	return h.exit(id)
}
