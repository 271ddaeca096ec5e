package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// soon is a context that ends while something else is waited for.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestLocksOfOthers holds the locks, which exclude processes and open files
// alike, as another program would.
func TestLocksOfOthers(t *testing.T) {
	w := newWorld(t, chain, recorder("first"), recorder("second"))
	n := w.open()
	other := w.attachment
	other.ContainerID = "c2"

	container, err := flock.AcquireName(t.Context(), filepath.Join(w.config.StateDir, "containers.lock"), "c1")
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Attach": errOf(n.Attach(soon(t), w.attachment)), "Detach": n.Detach(soon(t), w.attachment), "Check": n.Check(soon(t), w.attachment),
	} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s beside the container's lock: %v", name, err)
		}
	}
	if _, err := n.Attach(t.Context(), other); err != nil {
		t.Errorf("another container: %v", err)
	}
	container.Release()

	for _, c := range []struct {
		how     int
		add, gc bool
	}{{flock.Shared, true, false}, {flock.Exclusive, false, false}} {
		l, err := flock.Acquire(t.Context(), filepath.Join(w.config.StateDir, "gc.lock"), c.how)
		if err != nil {
			t.Fatal(err)
		}
		ctx := soon(t)
		if c.add {
			ctx = t.Context() // there is nothing to wait for
		}
		_, aerr := n.Attach(ctx, w.attachment)
		gcerr := n.GC(soon(t), nil)
		if (aerr == nil) != c.add || (gcerr == nil) != c.gc {
			t.Errorf("beside gc.lock (%d): Attach %v, GC %v", c.how, aerr, gcerr)
		}
		l.Release()
	}
	if err := n.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestHoldsTheLocks looks from inside each operation at what others could take.
func TestHoldsTheLocks(t *testing.T) {
	var w *world
	got := map[string]string{}
	note := func(_ context.Context, r *cni.Request) error {
		var free []string
		if l, _ := flock.TryAcquireName(filepath.Join(w.config.StateDir, "containers.lock"), "c1"); l != nil {
			free = append(free, "container")
			l.Release()
		}
		for _, how := range []int{flock.Shared, flock.Exclusive} {
			if l, _ := flock.TryAcquire(filepath.Join(w.config.StateDir, "gc.lock"), how); l != nil {
				free = append(free, map[int]string{flock.Shared: "shared", flock.Exclusive: "exclusive"}[how])
				l.Release()
			}
		}
		got[r.Command] = strings.Join(free, " ")
		return nil
	}
	w = newWorld(t, single, &cni.Plugin{
		Name: "first", IPAM: true, Del: note, Check: note, GC: note, Status: note,
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) { return &cni.Result{}, note(ctx, r) },
	})
	n := w.open()
	_, err := n.Attach(t.Context(), w.attachment)
	err = errors.Join(err, n.Check(t.Context(), w.attachment), n.GC(t.Context(), []runtime.Attachment{w.attachment}),
		n.Detach(t.Context(), w.attachment), n.Status(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for verb, want := range map[string]string{
		"ADD": "shared", "CHECK": "shared", "DEL": "shared", "GC": "container", "STATUS": "container shared exclusive",
	} {
		if got[verb] != want {
			t.Errorf("during %s another process could take %q, want %q", verb, got[verb], want)
		}
	}
}

// attachIn makes the test binary a process that attaches in that directory and
// is killed while it does.
const attachIn = "NODEKIT_TEST_ATTACH_IN"

func attachForever(dir string) {
	n, err := runtime.Open(runtime.Config{ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin")}, StateDir: filepath.Join(dir, "state")})
	if err == nil {
		_, err = n.Attach(context.Background(), runtime.Attachment{ContainerID: "c1", IfName: "eth0", NetNS: dir})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilledInAdd kills a process between an ADD and its record. The next one
// must run the DEL, without being asked to.
func TestKilledInAdd(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"slow"}]}`)
	w.script("slow", "echo $CNI_COMMAND >> "+w.log+"; [ $CNI_COMMAND = ADD ] && exec sleep 60\nexit 0\n")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), attachIn+"="+w.dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if content, _ := os.ReadFile(w.log); strings.HasPrefix(string(content), "ADD") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ADD does not begin")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	n := w.open()
	if got := w.seen(); got != "ADD, DEL" {
		t.Errorf("the plugin saw %q", got)
	}
	if err := n.Detach(t.Context(), w.attachment); err != nil || w.seen() != "" {
		t.Errorf("it is due still: %v", err)
	}
}
