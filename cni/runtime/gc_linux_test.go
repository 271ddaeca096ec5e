package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// collecting guards what collectors note: DELs of different containers come side by side.
var collecting sync.Mutex

// collector is a plugin that notes GC with what it must keep, and DEL.
func collector(name string, seen *[]string, gc error) *cni.Plugin {
	return &cni.Plugin{
		Name: name, IPAM: true,
		Add: func(context.Context, *cni.Request) (*cni.Result, error) { return &cni.Result{}, nil },
		Del: func(_ context.Context, r *cni.Request) error {
			collecting.Lock()
			defer collecting.Unlock()
			*seen = append(*seen, name+" DEL "+r.ContainerID)
			return nil
		},
		GC: func(_ context.Context, r *cni.Request) error {
			words := []string{name, "GC"}
			for _, a := range r.Valid {
				words = append(words, a.String())
			}
			*seen = append(*seen, strings.Join(words, " "))
			return gc
		},
	}
}

// TestGCIsMadeUpFor: a collection that found no configuration is made before the
// first address is given, once, and keeps what was valid and what has come since.
func TestGCIsMadeUpFor(t *testing.T) {
	const conf = `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`
	var seen []string
	w := newWorld(t, conf, collector("first", &seen, nil))
	n := w.open()
	attach := func(id string) error {
		_, err := n.Attach(t.Context(), runtime.Attachment{ContainerID: id, IfName: "eth0", NetNS: w.dir})
		return err
	}
	file, aside := filepath.Join(w.config.ConfDir, "10.conflist"), filepath.Join(w.dir, "aside")
	found, err := filepath.Glob(filepath.Join(w.config.ConfDir, "*"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := errors.Join(attach("since"), os.Rename(found[0], aside)); err != nil {
		t.Fatal(err)
	}
	valid := []runtime.Attachment{{ContainerID: "since", IfName: "eth0"}, {ContainerID: "earlier", IfName: "eth0"}}
	if err := n.GC(t.Context(), valid); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("GC without a configuration: %v", err)
	}
	if err := attach("early"); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("Attach without a configuration: %v", err)
	}
	if err := os.Rename(aside, file); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(attach("a"), attach("b")); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(seen, ", "), "first GC since/eth0 earlier/eth0"; got != want {
		t.Errorf("the plugin saw %q, want %q", got, want)
	}
}

func TestGC(t *testing.T) {
	const conf = `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"second"}]}`
	for name, c := range map[string]struct {
		conf string
		want string
		ok   bool
	}{
		"every plugin though one fails": {conf, "second DEL a, first DEL a, second DEL b, first DEL b, first GC c/eth0, second GC c/eth0", false},
		"disabled":                      {strings.Replace(conf, `"name"`, `"disableGC":true,"name"`, 1), "second DEL a, first DEL a, second DEL b, first DEL b", true},
		"before 1.1.0":                  {strings.Replace(conf, "1.1.0", "1.0.0", 1), "second DEL a, first DEL a, second DEL b, first DEL b", true},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []string
			w := newWorld(t, c.conf, collector("first", &seen, errors.New("the first cannot")), collector("second", &seen, nil))
			n := w.open()
			kept := runtime.Attachment{ContainerID: "c", IfName: "eth0", NetNS: w.dir}
			for _, id := range []string{"a", "b", "c"} {
				if _, err := n.Attach(t.Context(), runtime.Attachment{ContainerID: id, IfName: "eth0", NetNS: w.dir}); err != nil {
					t.Fatal(err)
				}
			}
			// A damaged record is no reason to keep what it stands for.
			if err := os.WriteFile(filepath.Join(w.config.StateDir, "attachments", "a:eth0.json"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			err := n.GC(t.Context(), []runtime.Attachment{kept})
			if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "the first cannot") {
				t.Errorf("GC: %v", err)
			}
			// What containers are detached in which order is nobody's business.
			dels := slices.IndexFunc(append(seen, "GC"), func(s string) bool { return strings.Contains(s, "GC") })
			slices.SortStableFunc(seen[:dels], func(a, b string) int { return strings.Compare(a[len(a)-1:], b[len(b)-1:]) })
			if got := strings.Join(seen, ", "); got != c.want {
				t.Errorf("plugins saw %q, want %q", got, c.want)
			}
			if _, err := n.Result(kept); err != nil {
				t.Errorf("what is valid is gone: %v", err)
			}
		})
	}
}

// TestGCThatFailsIsOver: a plugin whose GC is not ready, or hangs, has failed it. That is no
// collection that every Attach from then on has to wait for.
func TestGCThatFailsIsOver(t *testing.T) {
	var seen []string
	w := newWorld(t, single, collector("first", &seen, cni.Errorf(cni.CodeTryAgain, "not yet")))
	n := w.open()
	if err := n.GC(t.Context(), nil); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("GC: %v", err)
	}
	seen = nil
	attach := func() {
		t.Helper()
		a := w.attachment
		if err := errors.Join(errOf(n.Attach(t.Context(), a)), n.Detach(t.Context(), a)); err != nil {
			t.Error(err)
		}
	}
	if attach(); strings.Join(seen, ", ") != "first DEL c1" {
		t.Errorf("with Attach the plugin saw %q", seen)
	}
	file := filepath.Join(w.config.ConfDir, "50-test.conflist")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := n.GC(t.Context(), nil); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("GC without a configuration: %v", err)
	}
	w.write("50-test.conflist", single)
	attach() // makes up for it
	seen = nil
	if attach(); strings.Join(seen, ", ") != "first DEL c1" {
		t.Errorf("with a later Attach the plugin saw %q", seen)
	}
}

// TestGCBesideOneThatHangs: the DEL of one container that does not end takes none of the others'
// time, and an error tells which it was; attachments of one container have it one after the other.
func TestGCBesideOneThatHangs(t *testing.T) {
	w := newWorld(t, single)
	w.script("first", `D=`+w.dir+`
case $CNI_COMMAND.$CNI_CONTAINERID in
ADD.*) echo '{"cniVersion":"1.1.0"}';;
DEL.a-hangs) exec sleep 60;;
DEL.*) mkdir $D/$CNI_CONTAINERID || touch $D/beside; sleep 0.1; rmdir $D/$CNI_CONTAINERID;;
esac`)
	n := w.open()
	for _, a := range []string{"a-hangs/eth0", "b/eth0", "b/net1", "c/eth0"} {
		container, ifname, _ := strings.Cut(a, "/")
		if err := errOf(n.Attach(t.Context(), runtime.Attachment{ContainerID: container, IfName: ifname, NetNS: w.dir})); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err := n.GC(ctx, nil)
	if err == nil || !strings.Contains(err.Error(), `"a-hangs/eth0": plugin "first", DEL`) || strings.Contains(err.Error(), `detaching "b/`) || strings.Contains(err.Error(), `detaching "c/`) {
		t.Errorf("GC: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "beside")); err == nil {
		t.Error("two DELs of one container ran beside each other")
	}
	left, err := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*"))
	if err != nil || len(left) != 1 || !strings.Contains(left[0], "hangs") {
		t.Errorf("left: %q, %v", left, err)
	}
}
