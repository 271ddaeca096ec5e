package crisuite_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/supervisor"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The test binary is also a mutant of the reference runtime: with mutantName in its
// environment it starts the programs in toolsDir, and is their proxy.
const (
	mutantName = "CRISUITE_MUTANT"
	toolsDir   = "CRISUITE_TOOLS"
)

func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv(mutantName); ok {
		if err := serveMutant(name, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if _, ok := os.LookupEnv(checkpointingName); ok {
		cri.Main(checkpointer())
	}
	// Most mutants wait for what does not come: more than processors may run at a time.
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if dir := os.Getenv(toolsDir); dir != "" && builtHere {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// builtHere says that the tools are this run's. It is written once.
var builtHere bool

var buildTools = sync.OnceValue(func() error {
	if os.Getenv(toolsDir) != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "crisuite-tools-")
	if err != nil {
		return err
	}
	builtHere = true
	os.Setenv(toolsDir, dir)
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "../../cmd/nodekit", "../../cmd/keeper", "../../cmd/podtool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the runtime: %w\n%s", err, out)
	}
	return writeSaver(dir)
})

// tools returns the directory with the reference runtime and podtool.
func tools(t testing.TB) string {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	if err := buildTools(); err != nil {
		t.Fatal(err)
	}
	return os.Getenv(toolsDir)
}

// runtimeArgs are those of the reference runtime.
func runtimeArgs(root, endpoint, nri string) []string {
	return []string{"serve", "runtime", "--ephemeral", "--endpoint", endpoint, "--root", root, "--run", filepath.Join(root, "run"), "--nri-socket", nri, "--pin-image", "*/unique/pinned:v1"}
}

// nriSocket is where plugins connect to the reference runtime, and to its mutants.
const nriSocket = crisuite.Root + "/n.sock"

// reference is the runtime without fault.
func reference(t testing.TB) crisuite.Target {
	dir := tools(t)
	return crisuite.Target{
		Exec:    append([]string{filepath.Join(dir, "nodekit")}, runtimeArgs(crisuite.Root, crisuite.Endpoint, nriSocket)...),
		Program: filepath.Join(dir, "podtool"), NRI: nriSocket, Pinned: crisuite.Registry + "/unique/pinned:v1",
	}
}

// mutantProgram is a mutant that can be killed and started again.
func mutantProgram(t testing.TB, m mutant) crisuite.Target {
	dir := tools(t)
	return crisuite.Target{
		Exec:    []string{os.Args[0], crisuite.Root, crisuite.Endpoint},
		Env:     []string{mutantName + "=" + m.name},
		Program: filepath.Join(dir, "podtool"), NRI: nriSocket,
	}
}

// serveMutant runs the reference runtime behind a faulty proxy. The runtime dies with
// this process.
func serveMutant(name, root, endpoint string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	byName := func(m mutant) bool { return m.name == name }
	all := slices.Concat(programMutants(), savingMutants(), []mutant{{name: oddName, fault: oddRuntime()}})
	i := slices.IndexFunc(all, byName)
	if i < 0 {
		return fmt.Errorf("no mutant is named %q", name)
	}
	inner, innerNRI, dir := filepath.Join(root, "i.sock"), filepath.Join(root, "o.sock"), os.Getenv(toolsDir)
	args, env := runtimeArgs(root, "unix://"+inner, innerNRI), os.Environ()
	if slices.ContainsFunc(savingMutants(), byName) {
		args, env = append(args, saverArgs(dir)...), append(env, saverPath(dir))
	}
	rt, err := supervisor.Start(supervisor.Command{Path: filepath.Join(dir, "nodekit"), Args: args, Env: env, Stdout: os.Stderr, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { _ = rt.Stop(10 * time.Second) }()
	if err := answers(ctx, inner); err != nil {
		return fmt.Errorf("%w\n%s", err, rt.Tail())
	}
	p := &proxy{fault: all[i].fault, root: root, again: started(root), nri: filepath.Join(root, "n.sock"), innerNRI: innerNRI}
	return serveProxy(ctx, p, inner, endpoint)
}

func answers(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := client.Dial("unix://"+socket, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Wait(ctx)
	return err
}

// started reports whether a mutant was started in the directory before.
func started(root string) (again bool) {
	file := filepath.Join(root, "started")
	if _, err := os.Stat(file); err == nil {
		return true
	}
	return os.WriteFile(file, nil, 0o600) != nil
}

// host is a runtime that all mutants which need not be killed have behind them.
type host struct {
	dir, socket string
	like        crisuite.Target // without a program
}

func newHost(t *testing.T, target crisuite.Target) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "nkh")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, socket: filepath.Join(dir, "i.sock"), like: target}
	place := strings.NewReplacer(crisuite.Root, filepath.Join(dir, "root"), crisuite.Endpoint, "unix://"+h.socket)
	var args []string
	for _, arg := range target.Exec {
		args = append(args, place.Replace(arg))
	}
	h.like.Exec, h.like.Env, h.like.NRI = nil, nil, place.Replace(target.NRI)
	p, err := supervisor.Start(supervisor.Command{Path: args[0], Args: args[1:], Env: append(os.Environ(), target.Env...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(p.Tail())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := answers(t.Context(), h.socket); err != nil {
		t.Fatalf("%v\n%s", err, p.Tail())
	}
	return h
}

// mutant serves a proxy with a fault and returns it as a target.
func (h *host) mutant(t testing.TB, m mutant) crisuite.Target {
	t.Helper()
	dir, err := os.MkdirTemp(h.dir, "m")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	socket, target := filepath.Join(dir, "s.sock"), h.like
	p := &proxy{fault: m.fault, root: dir, innerNRI: h.like.NRI}
	if h.like.NRI != "" {
		p.nri = filepath.Join(dir, "n.sock")
		target.NRI = p.nri
	}
	go func() { done <- serveProxy(ctx, p, h.socket, "unix://"+socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := answers(t.Context(), socket); err != nil {
		t.Fatal(err)
	}
	target.Endpoint = "unix://" + socket
	return target
}
