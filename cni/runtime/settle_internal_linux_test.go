package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
)

// TestSettledWithTheNext: what the disk does not take is tried again, and the intent is
// open until then.
func TestSettledWithTheNext(t *testing.T) {
	dir := t.TempDir()
	n, err := Open(Config{ConfDir: dir, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	nothing := func() error { return nil }
	settle := func(id string) cni.Attachment {
		r := &record{Version: recordVersion, Attachment: Attachment{ContainerID: id, IfName: "eth0"}, List: &list{}}
		key := r.Attachment.key()
		if err := n.begin(r, nothing); err != nil {
			t.Fatal(err)
		}
		n.settle(written{key, n.intents[key].id})
		n.settler.idle.Wait()
		return key
	}
	file := n.records.path(cni.Attachment{ContainerID: "c1", IfName: "eth0"})
	if err := os.Symlink(file, file); err != nil { // which nobody can open
		t.Fatal(err)
	}
	if first := settle("c1"); n.begun(first) == nil {
		t.Error("the intent has ended before the disk has the record")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	settle("c2")
	if len(n.intents) > 0 || len(n.journal.Pending()) > 0 {
		t.Errorf("open still: %v", n.intents)
	}
}

// TestDamagedBeforeTheDisk: a record that is damaged is that of an ADD that has succeeded, also
// while its intent is open, so nothing of its DEL is passed over.
func TestDamagedBeforeTheDisk(t *testing.T) {
	dir := t.TempDir()
	n, err := Open(Config{ConfDir: dir, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	a := Attachment{ContainerID: "c1", IfName: "eth0"}
	r := &record{Version: recordVersion, Attachment: a, List: &list{}}
	if err := n.begin(r, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.records.path(a.key()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if due, err := n.due(a); err != nil || due == nil || !due.recorded || due.List != r.List {
		t.Errorf("due is %+v, %v; want what has begun, recorded", due, err)
	}
}
