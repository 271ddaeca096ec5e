package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

// logged is what a network logs.
type logged struct{ syncbuf.Buffer }

// lines returns the lines that have all the words.
func (l *logged) lines(words ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// TestPluginsAreHeard: what plugins log and what they write to stderr, delegates
// included, and although they succeed.
func TestPluginsAreHeard(t *testing.T) {
	say := func(_ context.Context, r *cni.Request) error { r.Log.Warn("said"); return nil }
	missing := true
	p := &cni.Plugin{
		Name: "first", IPAM: true, Del: say, GC: say, Status: say,
		Check: func(ctx context.Context, r *cni.Request) error {
			if missing {
				return errors.New("missing")
			}
			return say(ctx, r)
		},
		Repair: func(ctx context.Context, r *cni.Request) error { missing = false; return say(ctx, r) },
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			_, berr := r.Delegate("builtin").Add(ctx)
			_, ferr := r.Delegate("foreign").Add(ctx)
			return &cni.Result{}, errors.Join(say(ctx, r), berr, ferr)
		},
	}
	inner := &cni.Plugin{Name: "builtin", IPAM: true, Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		return &cni.Result{}, say(ctx, r)
	}}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"foreign"}]}`, p, inner)
	w.script("foreign", `echo "cried in $CNI_COMMAND" >&2; printf "no end" >&2; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0`)
	out := &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, nil))
	n := w.open()
	_, err := n.Attach(t.Context(), w.attachment)
	_, rerr := n.CheckAndRepair(t.Context(), w.attachment)
	err = errors.Join(err, rerr, n.Detach(t.Context(), w.attachment), n.Status(t.Context()), n.GC(t.Context(), nil))
	if err != nil {
		t.Fatal(err)
	}
	const about = "container=c1 interface=eth0"
	for _, words := range [][]string{
		{"said", "plugin=first", "command=ADD", about},
		{"said", "plugin=first", "command=ADD", about, "delegate=builtin"},
		{"cried in ADD", "plugin=first", about}, // as its delegate
		{"cried in ADD", "plugin=foreign", about},
		{"no end", "plugin=foreign", "command=ADD"},
		{"said", "plugin=first", "command=CHECK", about},
		{"said", "plugin=first", "command=DEL", about},
		{"cried in DEL", "plugin=foreign", about},
		{"said", "plugin=first", "command=STATUS"},
		{"cried in GC", "plugin=foreign", "command=GC"},
	} {
		if len(out.lines(words...)) == 0 {
			t.Errorf("nothing is logged with %q", words)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// TestFileThatBecomesInvalid: another network takes its place, which is told, once.
func TestFileThatBecomesInvalid(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	out := &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, nil))
	n := w.open()
	steps := []struct {
		content string
		told    int
	}{
		{`{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"first"}]}`, 0},
		{`{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"fi/rst"}]}`, 1},
		{`{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"first"}]}`, 1},
		{`{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"fi/rst"}]}`, 2},
	}
	for i, s := range steps {
		w.write("10-meant.conflist", s.content)
		_, err := n.Attach(t.Context(), w.attachment)
		if err = errors.Join(err, n.Status(t.Context()), n.Detach(t.Context(), w.attachment)); err != nil {
			t.Fatal(err)
		}
		if got := out.lines("ignoring a network configuration", "10-meant.conflist", "line 1", "fi/rst"); len(got) != s.told {
			t.Errorf("after step %d it is told %d times, want %d: %q", i, len(got), s.told, got)
		}
	}
}

// TestTimeoutForNothing: what is mistyped bounds nobody, which is told, once for each change.
func TestTimeoutForNothing(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	out := &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, nil))
	w.config.Timeouts = map[string]time.Duration{"first": time.Minute, "secnod": time.Minute}
	n := w.open()
	words := []string{"level=WARN", `a timeout is for a plugin that is not in the network (did you mean \"second\"?)`, "type=secnod"}
	for i, conf := range []struct {
		plugin string
		told   int
	}{{"second", 1}, {"secnod", 1}, {"second", 2}} {
		w.write("10-meant.conflist", `{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"first"},{"type":"`+conf.plugin+`"}]}`)
		_, err := n.Attach(t.Context(), w.attachment)
		if err = errors.Join(err, n.Detach(t.Context(), w.attachment)); err != nil && conf.plugin == "second" {
			t.Fatal(err)
		}
		if got := out.lines(words...); len(got) != conf.told {
			t.Errorf("after step %d it is told %d times, want %d: %q", i, len(got), conf.told, out.String())
		}
	}
	if got := out.lines("a timeout is for", "type=first"); len(got) != 0 {
		t.Errorf("of what is in the network it is told: %q", got)
	}
}

// TestPluginsAreShown gives the lines to who asked for them, and nobody else.
func TestPluginsAreShown(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"foreign"}]}`)
	w.script("foreign", `printf 'one\ntwo' >&2; echo '{"cniVersion":"1.1.0","code":100,"msg":"no"}'; exit 1`)
	out, shown := &logged{}, &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, nil))
	w.config.OnStderr = func(plugin, line string) { fmt.Fprintf(shown, "%s: %s\n", plugin, line) }
	if _, err := w.open().Attach(t.Context(), w.attachment); err == nil {
		t.Error("Attach succeeded")
	}
	if got := shown.String(); !strings.HasPrefix(got, "foreign: one\nforeign: two\n") || len(out.lines("two")) != 0 {
		t.Errorf("shown %q, logged %q", got, out.String())
	}
}

// TestCallsAreLogged with what they are about, and the code where they fail.
func TestCallsAreLogged(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"foreign"}]}`)
	w.script("foreign", `case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0"}' ;;
CHECK) echo '{"cniVersion":"1.1.0","code":142,"msg":"moved"}'; exit 1 ;;
esac`)
	out := &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n := w.open()
	_, err := n.Attach(t.Context(), w.attachment)
	if cerr := n.Check(t.Context(), w.attachment); cerr == nil || !strings.Contains(cerr.Error(), `plugin "foreign", CHECK, code 142: moved`) {
		t.Errorf("Check: %v", cerr)
	}
	if err := errors.Join(err, n.Detach(t.Context(), w.attachment), n.Status(t.Context()), n.GC(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	const about = "container=c1 interface=eth0"
	for _, words := range [][]string{
		{"method=ADD", about, "pod=ns/", "dur=", "err=<nil>"},
		{"method=CHECK", about, "code 142: moved"},
		{"method=DEL", about},
		{"method=STATUS", "pod=node"},
		{"method=GC"},
	} {
		if got := out.lines(append(words, "family=cni", "plugin=foreign")...); len(got) != 1 {
			t.Errorf("%d lines with %q", len(got), words)
		}
	}
}

// TestBabblingPlugin writes more than a log can take, in lines and without any.
func TestBabblingPlugin(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"babble"}]}`)
	w.script("babble", `yes "many words" | head -c 1000000 >&2; head -c 1000000 /dev/zero | tr '\0' x >&2; echo '{"cniVersion":"1.1.0"}'`)
	out := &logged{}
	w.config.Logger = slog.New(slog.NewTextHandler(out, nil))
	if _, err := w.open().Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if size, told := len(out.String()), len(out.lines("more to its stderr")); size > 64<<10 || told != 1 {
		t.Errorf("%d bytes are logged, and %d times that it is not all", size, told)
	}
}

// TestPluginAnswersGarbage: whoever reads the error sees what the plugin wrote.
func TestPluginAnswersGarbage(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"foreign"}]}`)
	w.script("foreign", `[ $CNI_COMMAND = ADD ] && echo "hello there"; exit 0`)
	_, err := w.open().Attach(t.Context(), w.attachment)
	for _, word := range []string{"foreign", "ADD", "no result", `"hello there\n"`} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v, without %q", err, word)
		}
	}
}

// TestPluginAnswersInAnotherVersion: the next plugin gets the result in the version that it is
// spoken to in, which upstream's insist on.
func TestPluginAnswersInAnotherVersion(t *testing.T) {
	for old, result := range map[string]string{
		"0.2.0": `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.7/24"}}`,
		"0.4.0": `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.7/24"}]}`,
	} {
		w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"old"},{"type":"next"}]}`)
		w.script("old", `[ $CNI_COMMAND = ADD ] && echo '`+result+`'; exit 0`)
		got := filepath.Join(w.dir, "got")
		w.script("next", `[ $CNI_COMMAND = ADD ] && cat >`+got+` && echo '{"cniVersion":"1.1.0"}'; exit 0`)
		if _, err := w.open().Attach(t.Context(), w.attachment); err != nil {
			t.Error(old, err)
			continue
		}
		stdin, err := os.ReadFile(got)
		if want := `"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.7/24"}]}`; err != nil || !strings.Contains(string(stdin), want) {
			t.Errorf("%s: %s, %v, want %s", old, stdin, err, want)
		}
	}
}

// TestErrorWithSuccess: a plugin that says why it failed, and exits as if it had not, has
// given no result, and the Pod would run without a network.
func TestErrorWithSuccess(t *testing.T) {
	w := newWorld(t, single)
	w.script("first", "echo $CNI_COMMAND >>"+w.log+`; echo '{"cniVersion":"1.1.0","code":7,"msg":"no subnet"}'`)
	err := errOf(w.open().Attach(t.Context(), w.attachment))
	if err == nil || !strings.Contains(err.Error(), "no subnet") {
		t.Errorf("Attach: %v", err)
	}
	if got := w.seen(); got != "ADD, DEL" {
		t.Errorf("the plugin saw %q", got)
	}
}
