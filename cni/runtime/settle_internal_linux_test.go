package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/journal"
	"github.com/nodekit-project/nodekit/internal/topdir"
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

// TestUndoingInterruptedOnes: a start does not wait for the DELs of what was interrupted one
// after the other, and for one that hangs no longer than for all.
func TestUndoingInterruptedOnes(t *testing.T) {
	const count = 8
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	script := "#!/bin/sh\ntouch " + dir + "/$CNI_CONTAINERID\n[ $CNI_CONTAINERID = hangs ] && exec sleep 60\n" + // all of them wait for each other
		"until [ $(ls " + dir + "/c* | wc -l) -ge " + strconv.Itoa(count) + " ]; do sleep 0.01; done"
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "p"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	c := Config{ConfDir: dir, StateDir: filepath.Join(dir, "state"), BinDirs: []string{bin}}
	n, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{"hangs"}
	for i := range count {
		ids = append(ids, fmt.Sprintf("c%d", i))
	}
	for _, id := range ids {
		r := &record{Version: recordVersion, Attachment: Attachment{ContainerID: id, IfName: "eth0"}, List: &list{Name: "n", Version: "1.1.0", Plugins: []plugin{{"type": []byte(`"p"`)}}}}
		if err := n.begin(r, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.recover(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	if len(n.intents) != 1 || n.begun(cni.Attachment{ContainerID: "hangs", IfName: "eth0"}) == nil {
		t.Errorf("due still: %v", n.intents)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestPut: the last record counts, also where files cannot be spread over the disk.
func TestPut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spread := range []topdir.Spread{topdir.Spread(t.TempDir()), topdir.Spread(file)} {
		rs := records{dir: t.TempDir(), spread: spread}
		for i := range 3 {
			r := &record{Attachment: Attachment{ContainerID: "c", IfName: "eth0"}, List: &list{}, Attempt: strconv.Itoa(i)}
			if err := rs.put(r); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(rs.path(r.Attachment.key()))
			if want, _ := encode(r); err != nil || !bytes.Equal(data, want) {
				t.Errorf("put %s, got %s, %v", want, data, err)
			}
		}
		entries, err := os.ReadDir(rs.dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("files: %v, %v", entries, err)
		}
	}
}
