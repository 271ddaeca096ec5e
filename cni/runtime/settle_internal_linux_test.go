package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/journal"
)

// TestEndedWithTheNext: an intent that cannot be ended, as on a disk that is full, is open
// until the next can.
func TestEndedWithTheNext(t *testing.T) {
	n := openEmpty(t)
	first := begin(t, n, "c1")
	whole := n.journal
	broken, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Note(kindAdd, nil); err != nil { // of the same id
		t.Fatal(err)
	}
	broken.Close()
	n.journal = broken
	n.settle(first)
	n.settler.idle.Wait()
	if n.begun(first.key) == nil {
		t.Error("the intent has ended without a journal")
	}
	n.journal = whole
	n.settle(begin(t, n, "c2"))
	n.settler.idle.Wait()
	if len(n.intents) > 0 || len(n.journal.Pending()) > 0 {
		t.Errorf("open still: %v", n.intents)
	}
}

// TestSyncFails: the kernel tells it once, so a later sync ends nothing.
func TestSyncFails(t *testing.T) {
	n := openEmpty(t)
	first := begin(t, n, "c1")
	file := n.records.path(first.key)
	if err := os.Symlink(file, file); err != nil { // which nobody can open
		t.Fatal(err)
	}
	n.settle(first)
	n.settler.idle.Wait()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	n.settle(begin(t, n, "c2"))
	n.settler.idle.Wait()
	if n.begun(first.key) == nil || len(n.intents) != 1 {
		t.Errorf("open are %v", n.intents)
	}
}

func openEmpty(t *testing.T) *Network {
	dir := t.TempDir()
	n, err := Open(Config{ConfDir: dir, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func begin(t *testing.T, n *Network, id string) written {
	r := &record{Version: recordVersion, Attachment: Attachment{ContainerID: id, IfName: "eth0"}, List: &list{}}
	if err := n.begin(r, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	key := r.Attachment.key()
	return written{key, n.intents[key].id}
}
