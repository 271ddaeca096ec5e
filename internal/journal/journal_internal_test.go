package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestBegunAnewMeanwhile: who opened the file before another process put it aside does
// not take that one for the journal.
func TestBegunAnewMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(path, path+".damaged"); err != nil {
		t.Fatal(err)
	}
	anew, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer anew.Close()
	if err := (&Journal{path: path, file: f}).load(); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("the earlier file is opened: %v", err)
	}
}

// slowDisk is a journal whose syncs wait to be let go, with the given outcome.
type slowDisk struct {
	*Journal
	t      *testing.T
	begun  chan struct{}
	result chan error
	crowd  errgroup.Group
}

func newSlowDisk(t *testing.T) *slowDisk {
	j, err := Open(filepath.Join(t.TempDir(), "j"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	d := &slowDisk{Journal: j, t: t, begun: make(chan struct{}, 100), result: make(chan error)}
	j.sync = func(*os.File) error {
		d.begun <- struct{}{}
		return <-d.result
	}
	return d
}

// begin begins intents at once and returns when they are appended.
func (d *slowDisk) begin(n int) {
	d.t.Helper()
	before := len(d.Pending())
	for range n {
		d.crowd.Go(func() error {
			_, err := d.Begin("x", nil)
			return err
		})
	}
	for len(d.Pending()) != before+n {
		time.Sleep(time.Millisecond)
	}
}

// TestSharedSync: those that come while the disk is busy share the next sync, and
// nobody returns by that of an earlier one.
func TestSharedSync(t *testing.T) {
	d := newSlowDisk(t)
	d.begin(1)
	<-d.begun
	d.begin(20)
	d.result <- nil
	close(d.result)
	if err := d.crowd.Wait(); err != nil {
		t.Error(err)
	}
	if n := len(d.begun); n != 1 {
		t.Errorf("20 had %d syncs", n)
	}
}

// TestFailedSync fails for all that it was for, and leaves no intent; the next has a
// sync of its own.
func TestFailedSync(t *testing.T) {
	d := newSlowDisk(t)
	d.begin(1)
	<-d.begun
	d.begin(20)
	d.result <- nil
	<-d.begun
	full := errors.New("the disk is broken")
	d.result <- full
	if err := d.crowd.Wait(); !errors.Is(err, full) {
		t.Errorf("the sync failed, Begin says: %v", err)
	}
	if left := d.Pending(); len(left) != 1 { // the first
		t.Errorf("%d intents are open", len(left))
	}
	d.crowd = errgroup.Group{}
	d.begin(1)
	<-d.begun
	d.result <- nil
	if err := d.crowd.Wait(); err != nil {
		t.Error(err)
	}
}
