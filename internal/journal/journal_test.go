package journal_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

func open(t *testing.T, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func begin(t *testing.T, j *journal.Journal, kind string) journal.ID {
	t.Helper()
	id, err := j.Begin(kind, map[string]string{"of": kind})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPendingSurvivesReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	a, b := begin(t, j, "a"), begin(t, j, "b")
	begin(t, j, "c")
	if err := errors.Join(j.Done(b), j.Done(b), j.Close()); err != nil {
		t.Fatal(err)
	}

	j = open(t, path)
	defer j.Close()
	p := j.Pending()
	if len(p) != 2 || p[0].ID != a || p[0].Kind != "a" || p[1].Kind != "c" || string(p[1].Data) != `{"of":"c"}` {
		t.Fatalf("pending after reopen: %v", p)
	}
	if next := begin(t, j, "d"); next <= p[1].ID {
		t.Fatalf("id %d was given twice", next)
	}
}

// TestNote: what is noted is pending for the next process, as what was begun is.
func TestNote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	noted, err := j.Note("noted", 1)
	if err != nil {
		t.Fatal(err)
	}
	begun := begin(t, j, "begun")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, path)
	defer j.Close()
	if p := j.Pending(); len(p) != 2 || p[0].ID != noted || p[0].Kind != "noted" || p[1].ID != begun {
		t.Errorf("pending after reopen: %v", p)
	}
	if err := j.Done(noted); err != nil || len(j.Pending()) != 1 {
		t.Errorf("pending after it was confirmed: %v, %v", j.Pending(), err)
	}
}

// TestCutAnywhere cuts the file after every byte, which is what a crash can
// leave, and expects every intent whose line is whole.
func TestCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	j := open(t, path)
	begin(t, j, "a")
	begin(t, j, "b")
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		cut := filepath.Join(dir, "cut")
		if err := os.WriteFile(cut, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, cut)
		if got, want := len(j.Pending()), max(0, strings.Count(string(whole[:n]), "\n")-1); got != want {
			t.Errorf("cut at %d: %d intents, want %d", n, got, want)
		}
		begin(t, j, "again")
		j.Close()
		open(t, cut).Close()
	}
}

func TestRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	begin(t, j, "a")
	begin(t, j, "b")
	if _, err := journal.Open(path); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("second opener got %v", err)
	}
	j.Close()

	whole, _ := os.ReadFile(path)
	damaged := []byte(strings.Replace(string(whole), `"a"`, `"x"`, 1))
	newer := []byte(strings.Replace(string(whole), "journal 1", "journal 2", 1))
	header := []byte(strings.Replace(string(whole), "journal 1", "journal \x00", 1))
	zeros := make([]byte, len(whole)) // what a file system may leave of a file when the machine fails
	for _, c := range []struct {
		content []byte
		want    fault.Kind
	}{{damaged, fault.Invalid}, {newer, fault.FailedPrecondition}, {header, fault.Invalid}, {zeros, fault.Invalid}} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Open(path); !errors.Is(err, c.want) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
}

// TestPutAside: what is damaged is kept beside the new journal, and nothing else is
// moved.
func TestPutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	begin(t, j, "a")
	begin(t, j, "b")
	if err := journal.PutAside(path); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("of one that is open: %v", err)
	}
	j.Close()
	if err := journal.PutAside(path); err != nil {
		t.Errorf("of one that is whole: %v", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := strings.Replace(string(whole), `"a"`, `"x"`, 1)
	if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := journal.PutAside(path); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != damaged {
		t.Errorf("put aside is %q, %v", kept, err)
	}
	if left := open(t, path).Pending(); len(left) != 0 {
		t.Errorf("the new one has %v", left)
	}
}

func TestStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	defer j.Close()
	for range 5000 {
		if err := j.Done(begin(t, j, strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() > 300<<10 {
		t.Fatalf("journal has %d bytes (%v)", fi.Size(), err)
	}
}

// TestStaysSmallBesideOpen: an intent that stays open, as that of a DEL that fails for ever,
// does not keep the file from being emptied of what has ended.
func TestStaysSmallBesideOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path+".new", []byte("of a process that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, path)
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left by an earlier process: %v", err)
	}
	first := begin(t, j, "first")
	churn := func(n int) {
		t.Helper()
		var crowd errgroup.Group
		for range 4 {
			crowd.Go(func() error {
				for range n / 4 {
					id, err := j.Begin("x", strings.Repeat("x", 1000))
					if err = errors.Join(err, j.Done(id)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := crowd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	churn(1000)
	if fi, err := os.Stat(path); err != nil || fi.Size() > 400<<10 {
		t.Errorf("journal has %d bytes (%v)", fi.Size(), err)
	}
	if other, err := journal.Open(path); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a second process has it: %v, %v", other, err)
	}
	last := begin(t, j, "last")
	j.Close()
	j = open(t, path)
	if p := j.Pending(); len(p) != 2 || p[0].ID != first || p[1].ID != last || string(p[0].Data) != `{"of":"first"}` {
		t.Errorf("open after a restart: %v", p)
	}
	if err := os.Mkdir(path+".new", 0o700); err != nil { // the new file cannot be made, as on a full disk
		t.Fatal(err)
	}
	churn(1000)
	j.Close()
	if p := open(t, path).Pending(); len(p) != 2 {
		t.Errorf("open are %v", p)
	}
}
