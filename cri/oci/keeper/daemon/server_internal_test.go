package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// A call that panics is answered, and the keeper lives on.
func TestCallPanics(t *testing.T) {
	s := &server{log: newTestServer(t).log} // it has nothing that a call needs
	err := s.call(nil, &wire.Request{Op: wire.OpStart, ID: "c", Start: &wire.StartRequest{
		Command: wire.Command{Args: []string{"/bin/true"}, PIDFile: "pid"},
	}}, nil)
	if !errors.Is(err, fault.Internal) {
		t.Errorf("%v, want %q", err, fault.Internal)
	}
}

// A start that comes while the keeper is ending is refused, and one that came before
// keeps it from that.
func TestNoStartWhileEnding(t *testing.T) {
	s := newTestServer(t)
	c, err := s.claim("before")
	if err != nil {
		t.Fatal(err)
	}
	if alive := s.close(); alive != 1 {
		t.Errorf("beside a start the keeper would end: %d", alive)
	}
	s.forget(c)
	c.life.Unlock()
	if alive := s.close(); alive != 0 {
		t.Errorf("%d containers keep it, want none", alive)
	}
	if _, err := s.claim("after"); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a keeper that is ending takes a container: %v", err)
	}
}

// TestJournalAfterLossOfPower: a damaged journal of an earlier boot is put aside, and
// one of this boot is an error, because nothing but a fault of ours can damage that.
func TestJournalAfterLossOfPower(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(dir, "exits")
	damage := func() {
		t.Helper()
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		gap := bytes.Repeat([]byte{0}, 100)
		if err := os.WriteFile(path, slices.Concat(whole[:30], gap, []byte("\n"), whole[30:]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exits := func() int {
		t.Helper()
		j, err := openJournal(dir, log)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if _, err := j.Note("exit", 0); err != nil {
			t.Fatal(err)
		}
		return len(j.Pending())
	}
	if a, b := exits(), exits(); a != 1 || b != 2 {
		t.Fatalf("%d and %d exits", a, b)
	}
	damage()
	if _, err := openJournal(dir, log); !errors.Is(err, fault.Invalid) {
		t.Errorf("damaged within this boot: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := exits(); n != 1 {
		t.Errorf("%d exits after a damaging loss of power", n)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
	if n := exits(); n != 2 {
		t.Errorf("%d exits then", n)
	}
}
