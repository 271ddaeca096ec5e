package supervisor_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// TestEnterIsNeverOnTheFirstThread holds that what Enter enters is not seen as
// the whole process's: its first thread is what /proc/self shows, and it does not
// end with its goroutine.
func TestEnterIsNeverOnTheFirstThread(t *testing.T) {
	var first atomic.Int64
	var group sync.WaitGroup
	for range 400 {
		group.Go(func() {
			_, err := supervisor.Start(supervisor.Command{Path: "/nothing", Enter: func() error {
				if unix.Gettid() == unix.Getpid() {
					first.Add(1)
				}
				return nil
			}})
			if err == nil {
				t.Error("a program that is not there was started")
			}
		})
	}
	group.Wait()
	if n := first.Load(); n > 0 {
		t.Errorf("%d of 400 starts entered on the first thread", n)
	}
}
