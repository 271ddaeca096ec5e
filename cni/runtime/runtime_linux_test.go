package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

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
