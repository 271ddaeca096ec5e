package nft

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestPausesAreBounded: they grow, and neither they nor their number are without
// an end.
func TestPausesAreBounded(t *testing.T) {
	for try := 1; try < 100; try++ {
		for range 20 {
			if p := pause(try); p < leastPause || p > mostPause || p > leastPause<<min(try, 20) {
				t.Fatalf("pause %d is %s", try, p)
			}
		}
	}
}

// TestAgainPauses: a transaction that others are always in the way of is tried a
// few times, with time between.
func TestAgainPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, tries := time.Now(), 0
		err := again(func() error { tries++; return unix.EBUSY })
		if !errors.Is(err, unix.EBUSY) || tries < 3 {
			t.Errorf("%d tries: %v", tries, err)
		}
		if took := time.Since(began); took < time.Duration(tries-1)*leastPause || took > time.Duration(tries)*mostPause {
			t.Errorf("%d tries took %s", tries, took)
		}
	})
}
