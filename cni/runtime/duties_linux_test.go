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

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestRunsInItsOwnNamespace: plugins, built in or executed, see the namespace of
// the runtime at every verb, whatever other threads of it are doing (CNI 1.1.0,
// section 3, Lifecycle & Ordering).
func TestRunsInItsOwnNamespace(t *testing.T) {
	testenv.Require(t, testenv.Root)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]string{} // by command
	look := func(_ context.Context, r *cni.Request) error {
		ns, err := os.Readlink("/proc/thread-self/ns/net")
		mu.Lock()
		defer mu.Unlock()
		seen[r.Command] = ns
		return err
	}
	p := &cni.Plugin{
		Name: "first", IPAM: true, Del: look, Check: look, GC: look, Status: look,
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) { return &cni.Result{}, look(ctx, r) },
	}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"},{"type":"foreign"}]}`, p)
	w.script("foreign", `echo $CNI_COMMAND $(readlink /proc/self/ns/net) >> `+w.log+`; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0`)
	other := netnstest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wanderers sync.WaitGroup
	for range 4 {
		wanderers.Go(func() {
			for ctx.Err() == nil {
				if err := netns.Do(other, func() error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	n := w.open()
	_, err = n.Attach(t.Context(), w.attachment)
	err = errors.Join(err, n.Check(t.Context(), w.attachment), n.Detach(t.Context(), w.attachment), n.GC(t.Context(), nil), n.Status(t.Context()))
	cancel()
	wanderers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(w.seen(), ", ") {
		command, ns, _ := strings.Cut(line, " ")
		if ns != home || seen[command] != home {
			t.Errorf("%s ran in %q and %q, the runtime is in %q", command, seen[command], ns, home)
		}
		delete(seen, command)
	}
	if len(seen) > 0 {
		t.Errorf("only the built-in plugin saw %v", seen)
	}
}

// TestGCIsNoDel: a plugin gets the DEL of each attachment, and GC in addition
// (CNI 1.1.0, GC).
func TestGCIsNoDel(t *testing.T) {
	f := &refusing{}
	w := newWorld(t, single, f.plugin("first"))
	n := w.open()
	for _, how := range []struct {
		end  func() error
		want []string
	}{
		{func() error { return n.Detach(t.Context(), w.attachment) }, []string{"ADD", "DEL"}},
		{func() error { return n.GC(t.Context(), nil) }, []string{"ADD", "DEL", "GC"}},
	} {
		if _, err := n.Attach(t.Context(), w.attachment); err != nil {
			t.Fatal(err)
		}
		if err := how.end(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(f.take()); !slices.Equal(got, how.want) {
			t.Errorf("the plugin saw %q, want %q", got, how.want)
		}
	}
}

// TestDelWithoutNamespace: CNI_NETNS of a DEL leads to a network namespace or is
// empty. Behind the path may be nothing, or what a restart of the machine leaves of a
// pin.
func TestDelWithoutNamespace(t *testing.T) {
	testenv.Require(t, testenv.Root)
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"foreign"}]}`)
	w.script("foreign", `echo "$CNI_COMMAND:$CNI_NETNS" >> `+w.log+`; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0`)
	n := w.open()
	for what, end := range map[string]func(pin string) error{
		"":            func(string) error { return nil },
		"nothing":     netns.Remove,
		"a left file": func(pin string) error { return errors.Join(netns.Remove(pin), os.WriteFile(pin, nil, 0o600)) },
	} {
		pin := filepath.Join(t.TempDir(), "net")
		if err := netns.Create(pin); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netns.Remove(pin) })
		a := w.attachment
		a.NetNS = pin
		if _, err := n.Attach(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(end(pin), n.Detach(t.Context(), a)); err != nil {
			t.Fatal(err)
		}
		want := "ADD:" + pin + ", DEL:"
		if what == "" {
			want += pin
		}
		if got := w.seen(); got != want {
			t.Errorf("where %q is at the path, the plugin saw %s, want %s", what, got, want)
		}
	}
}
