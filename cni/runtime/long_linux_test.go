package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni/runtime"
)

// TestLongContainerID: CNI has no limit for the id of a container, and file systems have
// one for a name. Whatever its length, an attachment is found by its id, by another
// process and in the list, and goes when it is detached or collected.
func TestLongContainerID(t *testing.T) {
	const conf = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"first"}]}`
	for _, length := range []int{1, 230, 231, 232, 255, 300, 5000} {
		var seen []string
		w := newWorld(t, conf, collector("first", &seen, nil))
		a, b := w.attachment, w.attachment
		a.ContainerID = strings.Repeat("a", length)
		b.ContainerID = strings.Repeat("a", length-1) + "b"
		n := w.open()
		if err := n.Detach(t.Context(), a); err != nil {
			t.Errorf("%d: Detach before Attach: %v", length, err)
		}
		for _, each := range []runtime.Attachment{a, b} {
			if _, err := n.Attach(t.Context(), each); err != nil {
				t.Fatalf("%d: %v", length, err)
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		n = w.open()
		if _, err := n.Attach(t.Context(), a); err == nil {
			t.Errorf("%d: it is attached twice", length)
		}
		if err := n.GC(t.Context(), []runtime.Attachment{b}); err != nil {
			t.Errorf("%d: %v", length, err)
		}
		if _, err := n.Result(b); err != nil {
			t.Errorf("%d: what is valid: %v", length, err)
		}
		if err := n.Detach(t.Context(), b); err != nil {
			t.Errorf("%d: %v", length, err)
		}
		if got := strings.Join(seen, ", "); got != "first DEL "+a.ContainerID+", first DEL "+b.ContainerID {
			t.Errorf("%d: the plugin saw %.200q", length, got)
		}
		if left, _ := os.ReadDir(filepath.Join(w.config.StateDir, "attachments")); len(left) != 0 {
			t.Errorf("%d: %v is left", length, left)
		}
	}
}

// TestLongestPlainName: an id that fits into a file's name stands there, as it did before
// longer ones could be recorded.
func TestLongestPlainName(t *testing.T) {
	var seen []string
	w := newWorld(t, `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"first"}]}`, collector("first", &seen, nil))
	w.attachment.ContainerID = strings.Repeat("a", 230)
	if _, err := w.open().Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(w.config.StateDir, "attachments", w.attachment.ContainerID+":eth0.json")); err != nil {
		t.Error(err)
	}
}

// TestDamagedLongRecord: the id is lost with the record, and whoever knows it gets rid of
// both. Others are collected.
func TestDamagedLongRecord(t *testing.T) {
	var seen []string
	w := newWorld(t, `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"first"}]}`, collector("first", &seen, nil))
	n := w.open()
	long, short := w.attachment, w.attachment
	long.ContainerID = strings.Repeat("a", 300)
	if _, err := n.Attach(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	n.Close() // the intent, which knows the id, has ended
	n = w.open()
	files, err := filepath.Glob(filepath.Join(w.config.StateDir, "attachments", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if _, err := n.Attach(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", `{"version":1,"attachment":{"containerID":"c2","ifname":"eth0"},"list":{"name":"n","plugins":[{"type":"first"}]}}`} {
		if err := os.WriteFile(files[0], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.GC(t.Context(), nil); err == nil || !strings.Contains(err.Error(), files[0]) {
			t.Errorf("GC with the record %q: %v", content, err)
		}
	}
	if err := n.Detach(t.Context(), long); err != nil {
		t.Error(err)
	}
	if err := n.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if got := strings.Join(seen, ", "); got != "first DEL c1, first DEL "+long.ContainerID {
		t.Errorf("the plugin saw %q", got)
	}
}
