package runtime_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
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

const chain = `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"second"}]}`

func TestChainOrderAndResults(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	steps := []struct {
		do   func() error
		want string
	}{
		{func() error { return n.Status(t.Context()) }, ""},
		{func() error { _, err := n.Attach(t.Context(), w.attachment); return err }, "first ADD 0, second ADD 1"},
		{func() error { return n.Check(t.Context(), w.attachment) }, "first CHECK 2, second CHECK 2"},
		{func() error { return n.Detach(t.Context(), w.attachment) }, "second DEL 2, first DEL 2"},
		{func() error { return n.Detach(t.Context(), w.attachment) }, ""},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if got := w.seen(); got != s.want {
			t.Errorf("plugins saw %q, want %q", got, s.want)
		}
	}
	want := "cni first STATUS node|cni second STATUS node|cni first ADD ns/" + w.log
	if got := strings.Join(w.calls, "|"); !strings.HasPrefix(got, want) {
		t.Errorf("observed %q", got)
	}
}

// TestFailedAddIsUndone: with the last result that there was, without which some plugins
// remove nothing.
func TestFailedAddIsUndone(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	w.attachment.ContainerID = "fails"
	_, err := n.Attach(t.Context(), w.attachment)
	if !errors.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "not today") {
		t.Errorf("Attach: %v", err)
	}
	if got := w.seen(); got != "first ADD 0, second ADD 1, second DEL 1, first DEL 1" {
		t.Errorf("plugins saw %q", got)
	}
	if _, err := n.Result(w.attachment); !errors.Is(err, fault.NotFound) {
		t.Errorf("a failed attachment has a result: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*"))
	if len(left) > 0 {
		t.Errorf("left in the state directory: %q", left)
	}
}

// TestMissingPlugin: a chain with a plugin that is nowhere does nothing, wherever in it
// that is, so that nothing is left which could not be undone without it.
func TestMissingPlugin(t *testing.T) {
	for _, conflist := range []string{
		`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"absent"},{"type":"first"}]}`,
		`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"absent"}]}`,
	} {
		w := newWorld(t, conflist, recorder("first"))
		n := w.open()
		_, err := n.Attach(t.Context(), w.attachment)
		if !errors.Is(err, fault.Unavailable) || strings.Count(err.Error(), `"absent" is in none of`) != 1 {
			t.Errorf("Attach: %v", err)
		}
		if err := n.Detach(t.Context(), w.attachment); err != nil {
			t.Errorf("Detach: %v", err)
		}
		if got := w.seen(); got != "" {
			t.Errorf("plugins saw %q", got)
		}
	}
}

// TestVersionRefused: a plugin that does not speak the version owes no DEL, which it would
// refuse for ever, also where its ADD was interrupted. One in a chain whose ADD has
// succeeded does, and so does one that only hands on the code of its delegate.
func TestVersionRefused(t *testing.T) {
	speaking := func(version string) string {
		return `[ $CNI_COMMAND != VERSION ] || { echo '{"cniVersion":"` + version + `","supportedVersions":["` + version + `"]}'; exit 0; }
echo '{"cniVersion":"1.0.0","code":1,"msg":"incompatible CNI versions"}'; exit 1`
	}
	refuse := speaking("1.0.0")
	w := newWorld(t, chain, recorder("first"))
	w.script("second", refuse)
	n := w.open()
	_, err := n.Attach(t.Context(), w.attachment)
	if cni.CodeOf(err) != cni.CodeVersion || strings.Contains(err.Error(), "undoing") {
		t.Errorf("Attach: %v", err)
	}
	if got := w.seen(); got != "first ADD 0, first DEL 1" {
		t.Errorf("plugins saw %q", got)
	}
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Errorf("Detach: %v", err)
	}

	w.script("second", speaking("1.1.0"))
	if _, err := n.Attach(t.Context(), w.attachment); err == nil || !strings.Contains(err.Error(), "undoing") {
		t.Errorf("Attach with a delegate that refuses: %v", err)
	}
	w.script("second", "exit 0")
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Errorf("Detach without it: %v", err)
	}

	later := filepath.Join(w.dir, "later")
	w.script("second", `cp -r `+w.config.StateDir+" "+later+`; echo '{"cniVersion":"1.1.0"}'`)
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	w.script("second", refuse)
	if err := n.Detach(t.Context(), w.attachment); cni.CodeOf(err) != cni.CodeVersion {
		t.Errorf("Detach of what was attached: %v", err)
	}
	file := filepath.Join(w.config.StateDir, "attachments", "c1:eth0.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(t.Context(), w.attachment); cni.CodeOf(err) != cni.CodeVersion {
		t.Errorf("Detach of what was attached, and whose record is damaged: %v", err)
	}
	n.Close()
	w.config.StateDir = later // as after a kill in the ADD
	w.seen()
	if err := w.open().Detach(t.Context(), w.attachment); err != nil {
		t.Errorf("Detach of what was interrupted: %v", err)
	}
	if got := w.seen(); got != "first DEL 0" {
		t.Errorf("of what was interrupted plugins saw %q", got)
	}
}

// TestKilledAddHasItsProgress: the DEL of an ADD that was interrupted has the last result
// that there was, as that of one that failed has.
func TestKilledAddHasItsProgress(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"second"},{"type":"third"}]}`)
	later, seen := filepath.Join(w.dir, "later"), filepath.Join(w.dir, "seen")
	w.script("first", `echo '{"cniVersion":"1.1.0","dns":{"domain":"first"}}'; cat >`+seen)
	w.script("second", `echo '{"cniVersion":"1.1.0","dns":{"domain":"second"}}'`)
	w.script("third", `[ $CNI_COMMAND != ADD ] || cp -r `+w.config.StateDir+" "+later+`; echo '{"cniVersion":"1.1.0"}'`)
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*.progress")); len(left) > 0 {
		t.Errorf("left of an ADD that is done: %q", left)
	}
	n.Close()
	w.config.StateDir = later // what the third plugin's ADD has found, as after a kill in it
	w.open()
	if raw, err := os.ReadFile(seen); !strings.Contains(string(raw), `"prevResult":{"cniVersion":"1.1.0","dns":{"domain":"second"}}`) {
		t.Errorf("DEL saw %s, %v", raw, err)
	}
	if left, _ := filepath.Glob(filepath.Join(later, "attachments", "*")); len(left) > 0 {
		t.Errorf("left after the DEL: %q", left)
	}
}

// TestPluginGoneMissing: what ran before it gets its DEL, and the plugin's own stays due
// until it is back.
func TestPluginGoneMissing(t *testing.T) {
	w := newWorld(t, chain)
	second := filepath.Join(w.config.BinDirs[0], "second")
	w.script("first", "rm -f "+second+`; echo '{"cniVersion":"1.1.0"}'`)
	w.script("second", "exit 0")
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err == nil || !strings.Contains(err.Error(), `"second", DEL`) {
		t.Errorf("Attach: %v", err)
	}
	if err := n.Detach(t.Context(), w.attachment); err == nil {
		t.Error("Detach succeeds without the plugin")
	}
	n.Close()
	w.script("first", "exit 0")
	w.script("second", "exit 0")
	if err := w.open().Detach(t.Context(), w.attachment); err != nil {
		t.Errorf("Detach with the plugin: %v", err)
	}
}

// TestConfigOutlivesItsFile removes an attachment after its configuration was
// replaced and the network restarted: DEL must see what ADD saw.
func TestConfigOutlivesItsFile(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	w.seen()
	n.Close()
	w.write("50-test.conflist", `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`)
	n = w.open()
	if r, err := n.Result(w.attachment); err != nil || len(r.IPs) != 2 {
		t.Errorf("result after a restart: %v, %v", r, err)
	}
	if _, err := n.Attach(t.Context(), w.attachment); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("attaching twice: %v", err)
	}
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if got := w.seen(); got != "second DEL 2, first DEL 2" {
		t.Errorf("plugins saw %q", got)
	}
}

// TestDamagedRecord must not keep a Pod from ending.
func TestDamagedRecord(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	n.Close() // the intent has ended
	n = w.open()
	w.seen()
	file := filepath.Join(w.config.StateDir, "attachments", "c1:eth0.json")
	for content, want := range map[string]string{`{"version":2}`: "", "": "second DEL 0, first DEL 0"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := n.Detach(t.Context(), w.attachment)
		if got := w.seen(); got != want || (err == nil) != (want != "") {
			t.Errorf("record %q: plugins saw %q, %v", content, got, err)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOneBadFile(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	w.write("10-broken.conflist", "{\n\"cniVersion\": \"1.1.0\",\n oops}")
	w.write("20-old.conf", `{"cniVersion":"9.0.0","name":"n","type":"first"}`)
	n := w.open()
	if err := n.Status(t.Context()); err != nil {
		t.Errorf("the good configuration does not count: %v", err)
	}
	os.Remove(filepath.Join(w.config.ConfDir, "50-test.conflist"))
	err := n.Status(t.Context())
	if !errors.Is(err, fault.Unavailable) {
		t.Errorf("Status without a valid configuration: %v", err)
	}
	for _, want := range []string{`10-broken.conflist" line 3`, "20-old.conf", "9.0.0"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	w.write("60-later.conf", `{"cniVersion":"0.4.0","name":"n","type":"first"}`)
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Errorf("with a single-plugin file that came later: %v", err)
	}
}

// script installs a shell script as a foreign plugin.
func (w *world) script(name, body string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.config.BinDirs[0], name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// TestRequest looks at the very bytes that a foreign plugin gets.
func TestRequest(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"0.4.0","cniVersions":["1.0.0","7.0.0"],"name":"n","plugins":[
		{"type":"show","capabilities":{"portMappings":true,"bandwidth":true,"mac":true,"ips":false},"args":{"cni":{}},
		"big":1152921504606846977,"float":1.10e+03,"text":"<a&b>","cni.dev/x":1,"prevResult":{},"runtimeConfig":{"dns":{}},"name":"other"}]}`)
	w.script("show", `cat >> `+w.log+`; echo >> `+w.log+`; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0"}'; exit 0`)
	w.attachment.PortMappings = []runtime.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
	w.attachment.CapabilityArgs = map[string]json.RawMessage{
		"mac": json.RawMessage(`"02:00:00:00:00:01"`), "bandwidth": json.RawMessage(`{"ingressRate": 9007199254740993}`),
		"ips": json.RawMessage(`["10.0.0.9"]`), "dns": json.RawMessage(`{}`),
	}
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	n.Close()
	n = w.open() // the record must keep it all
	if err := errors.Join(n.Check(t.Context(), w.attachment), n.Detach(t.Context(), w.attachment)); err != nil {
		t.Fatal(err)
	}
	want := `{"args":{"cni":{}},"big":1152921504606846977,"cniVersion":"1.0.0","float":1.10e+03,"name":"n",PREV` +
		`"runtimeConfig":{"bandwidth":{"ingressRate":9007199254740993},"mac":"02:00:00:00:00:01",` +
		`"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]},"text":"<a&b>","type":"show"}`
	later := strings.ReplaceAll(want, "PREV", `"prevResult":{"cniVersion":"1.0.0"},`)
	want = strings.Join([]string{strings.ReplaceAll(want, "PREV", ""), later, later}, ", ")
	if got := w.seen(); got != want {
		t.Errorf("the plugin got\n%s, want\n%s", got, want)
	}
}

// TestObserverOfACallThatHangs: it is told while a plugin runs, executed or in process,
// with the plugin's own limit.
func TestObserverOfACallThatHangs(t *testing.T) {
	answer := make(chan struct{})
	inside := &cni.Plugin{Name: "inside", IPAM: true, Add: func(context.Context, *cni.Request) (*cni.Result, error) {
		<-answer
		return &cni.Result{}, nil
	}}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"outside"},{"type":"inside"}]}`, inside)
	fifo := filepath.Join(w.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	w.script("outside", `[ $CNI_COMMAND = ADD ] && read x < `+fifo+`; echo '{"cniVersion":"1.1.0"}'`)
	w.config.PluginTimeout = 50 * time.Second
	var told []string
	w.config.Observe = &call.Observer{Patience: 10 * time.Millisecond, Waits: func(_ context.Context, c call.Call) {
		told = append(told, fmt.Sprintf("%s %s %s %v", c.Pod.UID, c.Plugin, c.Method, c.Limit.Round(time.Second)))
		if c.Plugin == "inside" {
			close(answer)
		} else if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
			t.Error(err)
		}
	}}
	if _, err := w.open().Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"u outside ADD 50s", "u inside ADD 50s"}, told); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"show"},{"type":"show"}]}`)
	w.script("show", `env | grep -v -e ^PWD= -e ^_= | sort | tr '\n' ' ' >> `+w.log+`; echo >> `+w.log+`; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0`)
	var traced []string
	w.config.Observe = &call.Observer{Done: func(ctx context.Context, c call.Call) {
		traced = append(traced, call.TraceFrom(ctx).Parent)
	}}
	w.attachment.Args = [][2]string{{"IgnoreUnknown", "1"}, {"A", "b=c"}}
	const trace, state = "00-0af7651916cd43dd8448eb211c80319c-", "vendor=1"
	ctx := call.WithTrace(t.Context(), call.Trace{Parent: trace + "b7ad6b7169203331-01", State: state})
	if _, err := w.open().Attach(ctx, w.attachment); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(w.seen(), ", ")
	if len(got) != 2 || len(traced) != 2 || traced[0] == traced[1] {
		t.Fatalf("plugins saw %q, the observer %q", got, traced)
	}
	for i, env := range got {
		want := fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;A=b=c CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=%s CNI_PATH=%s PATH=%s TRACEPARENT=%s TRACESTATE=%s",
			w.dir, w.config.BinDirs[0], os.Getenv("PATH"), traced[i], state)
		if strings.TrimSpace(env) != want || !strings.HasPrefix(traced[i], trace) {
			t.Errorf("plugin %d saw\n%q, want\n%q", i, env, want)
		}
	}
}

func TestRefusedAttachments(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	for name, change := range map[string]func(*runtime.Attachment){
		"no id":                func(a *runtime.Attachment) { a.ContainerID = "" },
		"a path":               func(a *runtime.Attachment) { a.ContainerID = "../c" },
		"no interface":         func(a *runtime.Attachment) { a.IfName = "" },
		"interface is a path":  func(a *runtime.Attachment) { a.IfName = "a/b" },
		"a pattern":            func(a *runtime.Attachment) { a.IfName = "eth%d" },
		"no JSON":              func(a *runtime.Attachment) { a.CapabilityArgs = map[string]json.RawMessage{"mac": []byte("{")} },
		"two arguments in one": func(a *runtime.Attachment) { a.Args = [][2]string{{"A", "b;C=d"}} },
		"ports twice": func(a *runtime.Attachment) {
			a.PortMappings = []runtime.PortMapping{{HostPort: 1}}
			a.CapabilityArgs = map[string]json.RawMessage{"portMappings": []byte("[]")}
		},
	} {
		a := w.attachment
		change(&a)
		if _, err := n.Attach(t.Context(), a); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestForeignPlugin(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"recorder"}]}`, recorder("first"))
	n := w.open()
	if err := n.Status(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Status without the plugin's binary: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(w.config.BinDirs[0], "recorder")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if got := w.seen(); got != "first ADD 0, recorder ADD 1, recorder DEL 2, first DEL 2" {
		t.Errorf("plugins saw %q", got)
	}
}

func TestHungPlugin(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"hang"}]}`)
	w.script("hang", "echo $CNI_COMMAND >> "+w.log+"; [ $CNI_COMMAND = ADD ] && exec sleep 60\nexit 0\n")
	w.config.Timeouts = map[string]time.Duration{"hang": time.Second}
	start := time.Now()
	_, err := w.open().Attach(t.Context(), w.attachment)
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "did not end in time") || time.Since(start) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	if got := w.seen(); got != "ADD, DEL" { // it is not tried again
		t.Errorf("the plugin saw %q", got)
	}
}

func TestOneContainerAtATime(t *testing.T) {
	var mu sync.Mutex
	running, most := map[string]int{}, map[string]int{}
	p := &cni.Plugin{Name: "first", IPAM: true}
	p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
		mu.Lock()
		running[r.ContainerID]++
		running["all"]++
		most[r.ContainerID] = max(most[r.ContainerID], running[r.ContainerID])
		most["all"] = max(most["all"], running["all"])
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		running[r.ContainerID]--
		running["all"]--
		return &cni.Result{}, nil
	}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`, p)
	n := w.open()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			a := runtime.Attachment{ContainerID: fmt.Sprintf("c%d", i%4), IfName: fmt.Sprintf("eth%d", i/4), NetNS: w.dir}
			if _, err := n.Attach(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for id, m := range most {
		if (m > 1) != (id == "all") {
			t.Errorf("%s: %d operations at once", id, m)
		}
	}
	if err := n.GC(t.Context(), []runtime.Attachment{{ContainerID: "c0", IfName: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*"))
	if len(left) != 1 || !strings.HasSuffix(left[0], "c0:eth0.json") {
		t.Errorf("after GC: %q", left)
	}
}

func TestStateDirHasOneOwner(t *testing.T) {
	w := newWorld(t, chain)
	w.open()
	if _, err := runtime.Open(w.config); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("second Open: %v", err)
	}
}

// TestAttachWith: the namespace is made once, before the first plugin, and not for nothing.
func TestAttachWith(t *testing.T) {
	p := recorder("first")
	w := newWorld(t, single, p)
	n := w.open()
	full := errors.New("no more namespaces")
	if _, err := n.AttachWith(t.Context(), w.attachment, func() error { return full }); !errors.Is(err, full) || w.seen() != "" {
		t.Errorf("with one that fails: %v", err)
	}
	n.Close()
	n = w.open()
	if got := w.seen(); got != "" {
		t.Errorf("at the next start the plugin saw %q", got)
	}
	add, made := p.Add, 0
	p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		p.Add = add // for the next try
		if made != 1 {
			return nil, errors.New("it is called before the namespace is there")
		}
		return nil, cni.Errorf(cni.CodeTryAgain, "later")
	}
	for _, want := range []error{nil, fault.AlreadyExists} {
		if _, err := n.AttachWith(t.Context(), w.attachment, func() error { made++; return nil }); !errors.Is(err, want) {
			t.Errorf("AttachWith: %v, want %v", err, want)
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

// TestDamagedJournal: a journal that cannot be read is kept for people, said of in the
// log, and in nobody's way; GC frees what was interrupted.
func TestDamagedJournal(t *testing.T) {
	p := recorder("first")
	w := newWorld(t, single, p)
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	n.Close()
	path := filepath.Join(w.config.StateDir, "journal")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(whole, []byte("eth0"), []byte("eth1"), 1)
	if err := os.WriteFile(path, damaged, 0o600); err != nil || bytes.Equal(whole, damaged) {
		t.Fatalf("damaging %s: %v", whole, err)
	}
	w.seen()
	var log bytes.Buffer
	w.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	n = w.open()
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("put aside is %q, %v", kept, err)
	}
	if !strings.Contains(log.String(), "is damaged") || !strings.Contains(log.String(), path+".damaged") {
		t.Errorf("the log says %q", log.String())
	}
	if err := n.Check(t.Context(), w.attachment); err != nil {
		t.Errorf("what was attached: %v", err)
	}
	w.seen()
	if err := n.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if got := w.seen(); !strings.HasPrefix(got, "first DEL") {
		t.Errorf("at GC the plugin saw %q", got)
	}
}

// TestFailedDelStaysDue makes DEL fail, also across a restart, and then succeed.
func TestFailedDelStaysDue(t *testing.T) {
	fail := true
	p := recorder("first")
	del := p.Del
	p.Del = func(ctx context.Context, r *cni.Request) error {
		if fail {
			return errors.New("not now")
		}
		return del(ctx, r)
	}
	p.Add = func(context.Context, *cni.Request) (*cni.Result, error) { return nil, errors.New("no") }
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`, p)
	n := w.open()
	for _, err := range []error{errOf(n.Attach(t.Context(), w.attachment)), n.Detach(t.Context(), w.attachment)} {
		if err == nil || !strings.Contains(err.Error(), "not now") {
			t.Errorf("got %v", err)
		}
	}
	n.Close()
	n = w.open()
	fail = false
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(w.seen()); !slices.Equal(got, []string{"first", "DEL", "0"}) {
		t.Errorf("the plugin saw %q", got)
	}
}

func errOf(_ *cni.Result, err error) error { return err }
