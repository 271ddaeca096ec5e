package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestLife(t *testing.T) {
	s := state.Open(filepath.Join(t.TempDir(), "deep", "state"))
	if _, err := s.Get("n", "c", "eth0"); !errors.Is(err, fault.NotFound) {
		t.Errorf("a record that never was: %v", err)
	}
	if list, err := s.List("n"); err != nil || len(list) != 0 {
		t.Errorf("a store that never was: %v, %v", list, err)
	}
	r := &state.Record{Network: "n", ContainerID: "c", IfName: "net@1", Plugin: "p", Config: []byte(`{"big":1152921504606846977}`)}
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	boot, err := state.Boot()
	if err != nil || r.Boot != boot || r.Version != 1 { // without delegates earlier programs read it
		t.Errorf("put %+v, boot %q, %v", r, boot, err)
	}
	r.Done, r.Result, r.Boot, r.Delegates = true, []byte(`{}`), "earlier", []state.Delegate{{Config: []byte(`{"type":"bridge"}`), IfName: "net1"}}
	if err := s.Put(r); err != nil || r.Version != state.Version {
		t.Fatalf("version %d, %v", r.Version, err)
	}
	got, err := s.Get("n", "c", "net@1")
	if err != nil || !cmp.Equal(got, r) {
		t.Errorf("got %+v, %v", got, err)
	}
	for range 2 {
		if err := s.Delete("n", "c", "net@1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get("n", "c", "net@1"); !errors.Is(err, fault.NotFound) {
		t.Errorf("after Delete: %v", err)
	}
}

// TestVersion2 is a record of the program that knew delegates by their configurations alone.
func TestVersion2(t *testing.T) {
	dir := t.TempDir()
	record := `{"version":2,"network":"n","containerID":"c","ifname":"eth0","plugin":"p","delegates":[{"type":"bridge","vlan":7}]}`
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "n"), 0o700), os.WriteFile(filepath.Join(dir, "n", "c@eth0.json"), []byte(record), 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := state.Open(dir).Get("n", "c", "eth0")
	if err != nil || !cmp.Equal(got.Delegates, []state.Delegate{{Config: []byte(`{"type":"bridge","vlan":7}`)}}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	s := state.Open(dir)
	for _, id := range []string{"b", "a", "damaged", "newer"} {
		if err := s.Put(&state.Record{Network: "n", ContainerID: id, IfName: "eth0", Plugin: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"damaged@eth0.json": "{", "newer@eth0.json": `{"version":99}`, ".a@eth0.json.tmp1": "{", "notes": "of a person"} {
		if err := os.WriteFile(filepath.Join(dir, "n", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List("n")
	var ids []string
	for _, r := range list {
		ids = append(ids, r.ContainerID)
	}
	if !cmp.Equal(ids, []string{"a", "b", "damaged"}) {
		t.Errorf("listed %v", ids)
	}
	for _, says := range []string{"damaged@eth0.json", "version 99"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error is silent about %s: %v", says, err)
		}
	}
	if err := s.Clean("n"); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "n", ".*")); len(left) != 0 {
		t.Errorf("Clean left %v", left)
	}
}

// TestDeleteLeavesNothing: a kill in the middle of a Put, and then a DEL.
func TestDeleteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := state.Open(dir)
	for _, id := range []string{"a", "b"} {
		if err := s.Put(&state.Record{Network: "n", ContainerID: id, IfName: "eth0", Plugin: "p"}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "n", "."+id+"@eth0.json.tmp17"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete("n", "a", "eth0"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "n")); len(left) != 2 {
		t.Errorf("beside another attachment: %v", left)
	}
	if err := s.Delete("n", "b", "eth0"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("behind the last attachment: %v", left)
	}
}

// TestStoreGoesWithItsLastRecord: a directory that Put has made leaves nothing of the
// plugin on the machine; one that was prepared for it stays.
func TestStoreGoesWithItsLastRecord(t *testing.T) {
	parent := t.TempDir()
	prepared, link := filepath.Join(parent, "prepared"), filepath.Join(parent, "link")
	err := errors.Join(os.Mkdir(prepared, 0o750), os.Mkdir(filepath.Join(parent, "target"), 0o700), os.Symlink("target", link))
	if err != nil {
		t.Fatal(err)
	}
	for dir, stays := range map[string]bool{filepath.Join(parent, "run", "p"): false, prepared: true, link: true} {
		s := state.Open(dir)
		for _, network := range []string{"n", "m"} {
			if err := s.Put(&state.Record{Network: network, ContainerID: "c", IfName: "eth0", Plugin: "p"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Delete("n", "c", "eth0"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get("m", "c", "eth0"); err != nil {
			t.Errorf("%s: of the other network: %v", dir, err)
		}
		if err := s.Delete("m", "c", "eth0"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(dir); (err == nil) != stays {
			t.Errorf("%s: stays %t (%v), want %t", dir, err == nil, err, stays)
		}
	}
	if _, err := os.Lstat(filepath.Join(parent, "run")); err != nil {
		t.Errorf("the directory above: %v", err)
	}
}

// TestDirectoryFlickers: another's Put has made the directories, and its Delete has removed
// them again before this one can look at them.
func TestDirectoryFlickers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := state.Open(dir)
	var other sync.WaitGroup
	var done atomic.Bool
	other.Go(func() {
		for !done.Load() {
			_ = os.MkdirAll(filepath.Join(dir, "n"), 0o700)
			_ = os.Remove(filepath.Join(dir, "n"))
			_ = os.Remove(dir)
		}
	})
	for range 500 {
		if err := s.Put(&state.Record{Network: "n", ContainerID: "c", IfName: "eth0", Plugin: "p"}); err != nil {
			t.Error(err)
			break
		}
		if err := s.Delete("n", "c", "eth0"); err != nil {
			t.Error(err)
			break
		}
	}
	done.Store(true)
	other.Wait()
}

// TestDirectoryGoesAndComes: the last attachment of all goes while others come.
func TestDirectoryGoesAndComes(t *testing.T) {
	s := state.Open(filepath.Join(t.TempDir(), "store"))
	var group sync.WaitGroup
	for i := range 8 {
		id := string(rune('a' + i))
		group.Go(func() {
			for range 50 {
				if err := s.Put(&state.Record{Network: "n", ContainerID: id, IfName: "eth0", Plugin: "p"}); err != nil {
					t.Error(err)
				}
				if _, err := s.Get("n", id, "eth0"); err != nil {
					t.Error(err)
				}
				if err := s.Delete("n", id, "eth0"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestNames(t *testing.T) {
	s := state.Open(t.TempDir())
	for _, r := range []state.Record{
		{Network: "../n", ContainerID: "c", IfName: "eth0"},
		{Network: "n", ContainerID: "c/d", IfName: "eth0"},
		{Network: "n", ContainerID: "", IfName: "eth0"},
		{Network: "n", ContainerID: "c", IfName: ".."},
		{Network: "n", ContainerID: "c", IfName: "a/b"},
	} {
		if err := s.Put(&r); !errors.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := s.List("../n"); !errors.Is(err, fault.Invalid) {
		t.Errorf("a network outside of the store: %v", err)
	}
}

// TestLongNames: CNI bounds neither a container's id nor a network's name, and file
// systems do.
func TestLongNames(t *testing.T) {
	dir := t.TempDir()
	s := state.Open(dir)
	network := strings.Repeat("n", 300)
	ids := []string{strings.Repeat("c", 300), strings.Repeat("c", 301), strings.Repeat("c", 190)}
	for _, id := range ids {
		if err := s.Put(&state.Record{Network: network, ContainerID: id, IfName: "eth0", Plugin: "p"}); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Get(network, id, "eth0"); err != nil || r.ContainerID != id {
			t.Errorf("got %+v, %v", r, err)
		}
	}
	if _, err := s.Get(network, ids[0], "eth1"); !errors.Is(err, fault.NotFound) {
		t.Errorf("another interface: %v", err)
	}
	list, err := s.List(network)
	if err != nil || len(list) != len(ids) {
		t.Errorf("listed %v, %v", list, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*", "~*"))
	if len(files) != 2 {
		t.Fatalf("files %q", files)
	}
	swap, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range [][]byte{swap, []byte("{")} { // another's record, and none
		if err := os.WriteFile(files[1], content, 0o600); err != nil {
			t.Fatal(err)
		}
		if list, err := s.List(network); !errors.Is(err, fault.Invalid) || len(list) != 2 {
			t.Errorf("a damaged file of a long name: %v, %v", list, err)
		}
	}
	for _, id := range ids {
		r, err := s.Get(network, id, "eth0")
		if r == nil || r.ContainerID != id {
			t.Errorf("got %+v, %v", r, err)
		}
		if err := s.Delete(network, id, "eth0"); err != nil {
			t.Error(err)
		}
	}
	if list, err := s.List(network); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

func TestCheck(t *testing.T) {
	if err := state.Open(filepath.Join(t.TempDir(), "a", "b")).Check(); err != nil {
		t.Errorf("a directory that Put would make: %v", err)
	}
	if err := state.Open("/proc/1/x").Check(); err == nil {
		t.Error("a directory that nobody can make")
	}
}
