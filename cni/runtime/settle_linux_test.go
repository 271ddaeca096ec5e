package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestIntentThatCannotEnd: an ADD whose result is stored has succeeded, whatever becomes of
// the journal, which is closed here meanwhile and else on a disk that is full.
func TestIntentThatCannotEnd(t *testing.T) {
	p := recorder("first")
	w := newWorld(t, single, p)
	n := w.open()
	add := p.Add
	p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		n.Close()
		return add(ctx, r)
	}
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Error(err)
	}
	p.Add = add
	n.Close() // waits until it has tried
	w.wantAttached(w.open())
}

// wantAttached wants the attachment to be there, and its DEL to be that of ADD.
func (w *world) wantAttached(n *runtime.Network) {
	w.t.Helper()
	if got := w.seen(); strings.Contains(got, "DEL") {
		w.t.Errorf("the plugin saw %q", got)
	}
	if _, err := n.Attach(w.t.Context(), w.attachment); !errors.Is(err, fault.AlreadyExists) {
		w.t.Errorf("Attach: %v", err)
	}
	if err := n.Detach(w.t.Context(), w.attachment); err != nil {
		w.t.Error(err)
	}
	if got := w.seen(); got != "first DEL 1" {
		w.t.Errorf("by Detach the plugin saw %q", got)
	}
	n.Close()
	if w.open().Close(); w.seen() != "" {
		w.t.Error("the next start runs the DEL again")
	}
	w.wantNoFiles()
}

func (w *world) wantNoFiles() {
	w.t.Helper()
	if left, err := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*")); err != nil || len(left) > 0 {
		w.t.Errorf("left: %q, %v", left, err)
	}
}

// killedIn attaches, and moves to the state directory that a process would leave which is
// killed after it has stored the result: the intent is open, and the record as given.
func (w *world) killedIn(change func(record []byte) []byte) {
	w.t.Helper()
	later, p := filepath.Join(w.dir, "later"), w.config.Builtin["first"]
	add := p.Add
	p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		if err := os.CopyFS(later, os.DirFS(w.config.StateDir)); err != nil {
			return nil, err
		}
		return add(ctx, r)
	}
	n := w.open()
	if _, err := n.Attach(w.t.Context(), w.attachment); err != nil {
		w.t.Fatal(err)
	}
	p.Add = add
	const name = "attachments/c1:eth0.json"
	record, err := os.ReadFile(filepath.Join(w.config.StateDir, name))
	if err == nil {
		err = errors.Join(n.Close(), os.WriteFile(filepath.Join(later, name), change(record), 0o600))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.config.StateDir = later
	w.seen()
}

// TestKilledBeforeTheDisk: a result that is stored is an ADD that has succeeded, before and
// after the disk has it.
func TestKilledBeforeTheDisk(t *testing.T) {
	w := newWorld(t, single, recorder("first"))
	w.killedIn(slices.Clone[[]byte])
	progress := filepath.Join(w.config.StateDir, "attachments", "c1:eth0.progress") // as longer chains keep it
	if err := os.WriteFile(progress, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wantAttached(w.open())
}

// TestDiskEndsTheIntent: once the disk has the result nothing else says that a DEL is due.
func TestDiskEndsTheIntent(t *testing.T) {
	w := newWorld(t, single, recorder("first"))
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	n.Close()
	w.seen()
	if err := os.Remove(filepath.Join(w.config.StateDir, "attachments", "c1:eth0.json")); err != nil {
		t.Fatal(err)
	}
	if w.open(); w.seen() != "" {
		t.Error("the next start runs a DEL")
	}
}

// cut is what a loss of power, or a broken disk, leaves of a record.
func cut(record []byte) []byte { return record[:len(record)/2] }

// TestPowerLostBeforeTheDisk: where the record is not whole, or is that of an earlier
// attachment, the DEL is due, with the configuration of ADD.
func TestPowerLostBeforeTheDisk(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"cut": cut,
		"earlier": func(record []byte) []byte {
			return regexp.MustCompile(`"attempt":"\w+"`).ReplaceAll(record, []byte(`"attempt":"EARLIER"`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, single, recorder("first"))
			w.attachment.NetNS = filepath.Join(w.dir, "gone")
			w.killedIn(change)
			w.write("50-test.conflist", strings.ReplaceAll(single, "first", "another"))
			n := w.open()
			if got := w.seen(); got != "first DEL 0" {
				t.Errorf("the plugin saw %q", got)
			}
			w.wantNoFiles()
			if err := n.Detach(t.Context(), w.attachment); err != nil || w.seen() != "" {
				t.Errorf("it is due still: %v", err)
			}
		})
	}
}

// TestBrokenDisk: a Pod that runs does not lose its network to it, and gets the DEL of its
// ADD in the end.
func TestBrokenDisk(t *testing.T) {
	w := newWorld(t, single, recorder("first"))
	w.killedIn(cut)
	w.write("50-test.conflist", strings.ReplaceAll(single, "first", "another"))
	n := w.open()
	if got := w.seen(); got != "" {
		t.Errorf("at the start the plugin saw %q", got)
	}
	if err := n.Detach(t.Context(), w.attachment); err != nil {
		t.Error(err)
	}
	if got := w.seen(); got != "first DEL 0" {
		t.Errorf("by Detach the plugin saw %q", got)
	}
	w.wantNoFiles()
}
