package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The tests in the files e2e_*_test.go use the built program as a user does.

// toolsDir names a folder with the built programs, for a machine without Go.
const toolsDir = "NODEKIT_TEST_TOOLS"

// programs builds what `make build` builds, once, and returns the directory.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(toolsDir); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "nodekit-bin-")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{
			"go", "build", "-trimpath", "-ldflags=-buildid=", "-o", dir, "../nodekit", "../keeper", "../podtool", "../cni",
			"../../examples/device-hello", "../../examples/csi-hello", "../../examples/cni-hello",
		},
		{"mkdir", filepath.Join(dir, "images")},
		{
			filepath.Join(dir, "nodekit"), "image", "pack", "--name", "nodekit.dev/podtool:v1",
			"--output", filepath.Join(dir, "images", "podtool.tar"), filepath.Join(dir, "podtool"),
		},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); testBuilt && err == nil && os.Getenv(toolsDir) == "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// testBuilt says that a test has built the programs.
var testBuilt bool

// cli is the program, in a temporary directory of the test's own.
type cli struct {
	t   *testing.T
	bin string
	tmp string // TMPDIR of what is started
	own []int  // processes of the test's own, which clean leaves out
}

// newCLI fails the test unless, at its end, everything that it started has
// left the machine as it was.
func newCLI(t *testing.T) *cli {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	testBuilt = true
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp("", "nke-") // short, for the sockets below it
	if err != nil {
		t.Fatal(err)
	}
	c := &cli{t: t, bin: bin, tmp: tmp, own: []int{os.Getpid()}}
	t.Cleanup(func() {
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	return c
}

// process is a started nodekit.
type process struct {
	*exec.Cmd
	t   *testing.T
	out *syncbuf.Buffer
}

// start starts nodekit with the arguments. It is killed when the test ends.
func (c *cli) start(args ...string) *process {
	c.t.Helper()
	p := &process{Cmd: exec.Command(filepath.Join(c.bin, "nodekit"), args...), t: c.t, out: &syncbuf.Buffer{}}
	p.Env = append(os.Environ(), "TMPDIR="+c.tmp)
	p.Stdout, p.Stderr = p.out, p.out
	if err := p.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = p.Process.Kill() // it has ended, unless the test failed
		_ = p.Wait()
	})
	return p
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	return p.exitWithin(time.Minute)
}

// exitWithin is exit for what takes longer.
func (p *process) exitWithin(most time.Duration) int {
	p.t.Helper()
	stop := time.AfterFunc(most, func() { _ = p.Process.Kill() })
	defer stop.Stop()
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

// await waits until the output matches.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if m := re.FindStringSubmatch(p.out.String()); m != nil {
			return m
		}
	}
	p.t.Fatalf("no %q in:\n%s", pattern, p.out)
	return nil
}

// run runs nodekit to its end.
func (c *cli) run(args ...string) (output string, code int) {
	c.t.Helper()
	p := c.start(args...)
	code = p.exit()
	return p.out.String(), code
}

// write writes a file into the test's directory and returns its path.
func (c *cli) write(name, content string) string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

var nodeID = regexp.MustCompile(`(?:(?:bridge|network) nk-|control group /nodekit-)([0-9a-f]+)`)

// clean fails the test unless nothing is left of the nodes that the output
// speaks of: processes, mounts, namespaces, links, rules, cgroups, files.
func (c *cli) clean(output string) {
	c.t.Helper()
	scope := leak.Scope{
		Kinds:    []leak.Kind{leak.Mount, leak.Namespace, leak.Link, leak.NFT, leak.Cgroup, leak.Process, leak.File, leak.Loop},
		Prefixes: map[leak.Kind][]string{leak.Mount: {c.tmp}, leak.Namespace: {c.tmp}, leak.Loop: {c.tmp}, leak.Link: {"none"}, leak.NFT: {"none"}, leak.Cgroup: {"none"}},
		Marker:   c.tmp, Dirs: []string{c.tmp},
	}
	for _, m := range nodeID.FindAllStringSubmatch(output, -1) {
		scope.Prefixes[leak.Link] = append(scope.Prefixes[leak.Link], "nk-"+m[1])
		scope.Prefixes[leak.NFT] = append(scope.Prefixes[leak.NFT], "nodekit-"+m[1])
		scope.Prefixes[leak.Cgroup] = append(scope.Prefixes[leak.Cgroup], "/nodekit-"+m[1])
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	nothing, err := leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Loop}, Prefixes: map[leak.Kind][]string{leak.Loop: {"none"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	var left []leak.Leak
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		after, err := leak.Take(scope)
		if err != nil {
			c.t.Fatal(err)
		}
		if left = c.withoutOwn(nothing.Diff(after)); len(left) == 0 {
			return
		}
	}
	c.t.Errorf("left on the machine: %v\nafter:\n%s", left, output)
}

// withoutOwn leaves out the directory itself and the processes that are the
// test's own.
func (c *cli) withoutOwn(all []leak.Leak) []leak.Leak {
	var left []leak.Leak
	for _, l := range all {
		own := l.Kind == leak.Process && slices.ContainsFunc(c.own, func(pid int) bool { return strings.HasPrefix(l.Name, fmt.Sprint(pid, " ")) })
		if l.Name != c.tmp && !own {
			left = append(left, l)
		}
	}
	return left
}

func (p *process) interrupt() {
	p.t.Helper()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.Wait() // killed
}
