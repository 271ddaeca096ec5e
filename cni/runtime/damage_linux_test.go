package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

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

// TestPluginNotStarted: a plugin that cannot be started has done nothing, so that nothing is
// due where it is the first. For one that is being installed an ADD waits a moment.
func TestPluginNotStarted(t *testing.T) {
	w := newWorld(t, single)
	w.script("first", "echo $CNI_COMMAND >>"+w.log+`; echo '{"cniVersion":"1.1.0"}'`)
	n := w.open()
	inArgs, otherMachine, installed := w.attachment, w.attachment, w.attachment
	inArgs.ContainerID, inArgs.Args = "c2", [][2]string{{"A", "x\x00y"}}
	otherMachine.ContainerID = "c3"
	file := filepath.Join(w.config.BinDirs[0], "first")
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(a runtime.Attachment) {
		t.Helper()
		err := errOf(n.Attach(t.Context(), a))
		if err == nil || strings.Contains(err.Error(), "undoing") {
			t.Errorf("Attach: %v", err)
		}
		if err := n.Detach(t.Context(), a); err != nil {
			t.Errorf("Detach: %v", err)
		}
	}
	refused(inArgs)
	if err := os.WriteFile(file, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused(otherMachine)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _, _ = f.Write(script); f.Close() })
	if err := errOf(n.Attach(t.Context(), installed)); err != nil {
		t.Error(err)
	}
	if got := w.seen(); got != "ADD" {
		t.Errorf("the plugin saw %q", got)
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

// TestOddFiles: what is no file cannot be read, and nothing waits for what it might say.
func TestOddFiles(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	pipe, dir := filepath.Join(w.config.ConfDir, "10-pipe.conflist"), filepath.Join(w.config.ConfDir, "20-dir.conf")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.Symlink(w.dir, dir)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	w.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	opened := make(chan *runtime.Network, 1)
	go func() {
		n, _ := runtime.Open(w.config)
		opened <- n
	}()
	select {
	case n := <-opened:
		defer n.Close()
		if err := n.Status(t.Context()); err != nil {
			t.Errorf("the good configuration does not count: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Open waits for somebody to write a configuration into a pipe")
	}
	for _, name := range []string{"10-pipe.conflist", "20-dir.conf"} {
		if !strings.Contains(log.String(), name) || !strings.Contains(log.String(), "no regular file") {
			t.Errorf("the log does not tell of %s: %s", name, log.String())
		}
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
