package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/call"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "recorder" { // a foreign plugin: this binary under another name
		cni.Main(recorder("recorder"))
	}
	if dir := os.Getenv(attachIn); dir != "" {
		attachForever(dir)
	}
	os.Exit(m.Run())
}

// recorder is a plugin that notes every call in the file that the Pod's name is.
// It is an IPAM plugin so that it needs no network namespace.
func recorder(name string) *cni.Plugin {
	note := func(_ context.Context, r *cni.Request) error {
		if logOf(r) == "" { // STATUS and GC belong to no Pod
			return nil
		}
		f, err := os.OpenFile(logOf(r), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = fmt.Fprintf(f, "%s %s %d\n", name, r.Command, lenIPs(r.PrevResult))
		return err
	}
	p := &cni.Plugin{Name: name, IPAM: true, Del: note, Check: note, GC: note, Status: note}
	p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		if err := note(ctx, r); err != nil {
			return nil, err
		}
		if r.ContainerID == "fails" && name == "second" {
			return nil, cni.Errorf(cni.CodeExhausted, "not today")
		}
		ip, err := types100.NewResult([]byte(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24"}]}`))
		if err != nil {
			return nil, err
		}
		return cni.Merge(r.PrevResult, ip.(*cni.Result)), nil
	}
	return p
}

func lenIPs(r *cni.Result) int {
	if r == nil {
		return 0
	}
	return len(r.IPs)
}

func logOf(r *cni.Request) string { return r.Args["K8S_POD_NAME"] }

// world is a configuration directory and what goes with it.
type world struct {
	t          *testing.T
	dir, log   string
	config     runtime.Config
	mu         sync.Mutex
	calls      []string
	attachment runtime.Attachment
}

func newWorld(t *testing.T, conflist string, builtin ...*cni.Plugin) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.log = filepath.Join(w.dir, "log")
	w.config = runtime.Config{
		ConfDir: filepath.Join(w.dir, "net.d"), BinDirs: []string{filepath.Join(w.dir, "bin")},
		StateDir: filepath.Join(w.dir, "state"), Builtin: map[string]*cni.Plugin{},
		Observe: &call.Observer{Done: func(ctx context.Context, c call.Call) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.calls = append(w.calls, fmt.Sprintf("%s %s %s %s", c.Family, c.Plugin, c.Method, c.Pod))
		}},
	}
	for _, p := range builtin {
		w.config.Builtin[p.Name] = p
	}
	for _, d := range []string{w.config.ConfDir, w.config.BinDirs[0]} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.write("50-test.conflist", conflist)
	w.attachment = runtime.Attachment{ContainerID: "c1", IfName: "eth0", NetNS: w.dir, Pod: call.Pod{Namespace: "ns", Name: w.log, UID: "u"}}
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.config.ConfDir, name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() *runtime.Network {
	w.t.Helper()
	n, err := runtime.Open(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.Close() })
	return n
}

// seen returns what the recorders wrote since the last call.
func (w *world) seen() string {
	content, err := os.ReadFile(w.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	os.Remove(w.log)
	return strings.ReplaceAll(strings.TrimSpace(string(content)), "\n", ", ")
}

// script installs a shell script as a foreign plugin.
func (w *world) script(name, body string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.config.BinDirs[0], name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func errOf(_ *cni.Result, err error) error { return err }
