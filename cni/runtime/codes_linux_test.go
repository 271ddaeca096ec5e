package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// refusing is a plugin that answers with an error code the first times, by verb.
type refusing struct {
	seen  []string
	left  map[string]int
	code  uint
	label string
}

func (f *refusing) plugin(name string) *cni.Plugin {
	answer := func(_ context.Context, r *cni.Request) error {
		f.seen = append(f.seen, f.label+r.Command)
		if f.left[r.Command] == 0 {
			return nil
		}
		f.left[r.Command]--
		return cni.Errorf(f.code, "not now")
	}
	return &cni.Plugin{
		Name: name, IPAM: true, Del: answer, Check: answer, GC: answer, Status: answer,
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) { return &cni.Result{}, answer(ctx, r) },
	}
}

func (f *refusing) take() string {
	defer func() { f.seen = nil }()
	return strings.Join(f.seen, " ")
}

const single = `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`

func TestTryAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &refusing{code: cni.CodeTryAgain, left: map[string]int{"ADD": 2, "DEL": 1, "CHECK": 1, "GC": 1, "STATUS": 1}}
		w := newWorld(t, single, f.plugin("first"))
		n := w.open()
		for _, s := range []struct {
			do   func() error
			want string
		}{
			// No ADD follows another without a DEL between them.
			{func() error { _, err := n.Attach(t.Context(), w.attachment); return err }, "ADD DEL DEL ADD DEL ADD"},
			{func() error { return n.Check(t.Context(), w.attachment) }, "CHECK CHECK"},
			{func() error { return n.GC(t.Context(), nil) }, "DEL GC GC"},
		} {
			if err := s.do(); err != nil {
				t.Error(err)
			}
			if got := f.take(); got != s.want {
				t.Errorf("the plugin saw %q, want %q", got, s.want)
			}
		}
		if err := n.Status(t.Context()); !errors.Is(err, fault.Unavailable) || f.take() != "STATUS" {
			t.Errorf("STATUS is asked again by who polls it: %v", err)
		}
	})
}

func TestTryAgainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &refusing{code: cni.CodeTryAgain, left: map[string]int{"ADD": 1 << 30}}
		w := newWorld(t, single, f.plugin("first"))
		n := w.open()
		_, err := n.Attach(t.Context(), w.attachment)
		if got := f.take(); !errors.Is(err, fault.Unavailable) || got != strings.TrimSpace(strings.Repeat("ADD DEL ", 4)) {
			t.Errorf("the plugin saw %q, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // between the first pause and the second
		defer cancel()
		_, err = n.Attach(ctx, w.attachment)
		if got := f.take(); !errors.Is(err, fault.Unavailable) || got != "ADD DEL ADD DEL" {
			t.Errorf("with a context that ends the plugin saw %q, %v", got, err)
		}
	})
}

// A DEL that keeps failing leaves no room for another ADD.
func TestNoAddBesideADueDel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &refusing{code: cni.CodeTryAgain, left: map[string]int{"ADD": 1, "DEL": 4}}
		w := newWorld(t, single, f.plugin("first"))
		n := w.open()
		_, err := n.Attach(t.Context(), w.attachment)
		if got := f.take(); !errors.Is(err, fault.Unavailable) || got != "ADD DEL DEL DEL DEL" {
			t.Errorf("the plugin saw %q, %v", got, err)
		}
		if _, err := n.Attach(t.Context(), w.attachment); !errors.Is(err, fault.AlreadyExists) {
			t.Errorf("with a DEL that is due: %v", err)
		}
	})
}

// A mistyped IPAM plugin fails the DEL of the failed ADD as well, for as long as the
// list is recorded. No address was given, so nothing is due.
func TestIPAMThatNeverWasThere(t *testing.T) {
	conflist := strings.Replace(single, `"first"`, `"first","ipam":{"type":"hostlocal"}`, 1)
	const missing = `plugin "hostlocal" is in none of the directories`
	for name, c := range map[string]struct {
		first, then string // what is there for the ADD, and for its DEL
		says        string // the DEL
		due         bool
	}{
		"nowhere":  {"", "", missing, false},
		"by now":   {"", "hostlocal", missing, true},
		"another":  {"", "host-local", missing, false},
		"gone":     {"hostlocal", "", missing, true}, // it may have given an address
		"built in": {"", "", "the daemon is not up", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := &refusing{code: cni.CodeDelegate, left: map[string]int{"ADD": 1, "DEL": 1 << 30}}
			p := f.plugin("first")
			w := newWorld(t, conflist, p)
			install := func(name string) {
				err := os.RemoveAll(w.config.BinDirs[0])
				if err == nil && name != "" {
					err = errors.Join(os.Mkdir(w.config.BinDirs[0], 0o755), os.WriteFile(filepath.Join(w.config.BinDirs[0], name), nil, 0o755))
				}
				if err != nil {
					t.Error(err)
				}
			}
			inner := p.Del
			p.Del = func(ctx context.Context, r *cni.Request) error {
				install(c.then)
				if err := inner(ctx, r); err != nil {
					return cni.Errorf(cni.CodeDelegate, "%s", c.says)
				}
				return nil
			}
			install(c.first)
			n := w.open()
			_, err := n.Attach(t.Context(), w.attachment)
			if got := f.take(); err == nil || got != "ADD DEL" {
				t.Errorf("the plugin saw %q, %v", got, err)
			}
			if err := n.Detach(t.Context(), w.attachment); (err != nil) != c.due {
				t.Errorf("Detach: %v", err)
			}
			if _, err := n.Attach(t.Context(), w.attachment); errors.Is(err, fault.AlreadyExists) != c.due {
				t.Errorf("the next ADD: %v", err)
			}
		})
	}
}

// An attachment that was made has addresses, and its DEL is due.
func TestIPAMThatIsGone(t *testing.T) {
	f := &refusing{code: cni.CodeDelegate, left: map[string]int{"DEL": 1}}
	w := newWorld(t, strings.Replace(single, `"first"`, `"first","ipam":{"type":"hostlocal"}`, 1), f.plugin("first"))
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	for _, fails := range []bool{true, false} {
		if err := n.Detach(t.Context(), w.attachment); (err != nil) != fails {
			t.Errorf("Detach: %v", err)
		}
	}
}

func TestUnknownContainer(t *testing.T) {
	for name, c := range map[string]struct {
		first, second map[string]int
		attach        bool
		want          string
	}{
		"first ADD":  {map[string]int{"ADD": 1}, nil, false, "1ADD"},
		"second ADD": {nil, map[string]int{"ADD": 1}, false, "1ADD 2ADD 2DEL 1DEL"},
		"DEL":        {nil, map[string]int{"DEL": 1}, true, "1ADD 2ADD 2DEL 1DEL"},
	} {
		t.Run(name, func(t *testing.T) {
			one := &refusing{code: cni.CodeUnknownContainer, left: c.first, label: "1"}
			two := &refusing{code: cni.CodeUnknownContainer, left: c.second, label: "2"}
			var seen []string
			plugins := []*cni.Plugin{one.plugin("first"), two.plugin("second")}
			for i, f := range []*refusing{one, two} {
				for _, verb := range []*func(context.Context, *cni.Request) error{&plugins[i].Del} {
					inner := *verb
					*verb = func(ctx context.Context, r *cni.Request) error {
						seen = append(seen, f.label+r.Command)
						return inner(ctx, r)
					}
				}
				add := plugins[i].Add
				plugins[i].Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
					seen = append(seen, f.label+r.Command)
					return add(ctx, r)
				}
			}
			w := newWorld(t, chain, plugins...)
			n := w.open()
			_, err := n.Attach(t.Context(), w.attachment)
			if (err == nil) != c.attach || !c.attach && !errors.Is(err, fault.NotFound) {
				t.Errorf("Attach: %v", err)
			}
			if err := n.Detach(t.Context(), w.attachment); err != nil {
				t.Errorf("Detach: %v", err)
			}
			if got := strings.Join(seen, " "); got != c.want {
				t.Errorf("plugins saw %q, want %q", got, c.want)
			}
		})
	}
}
