package record

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// trash makes a directory with a file in it.
func trash(t *testing.T, dir string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// count is how many directories are in the bin once nothing happens but by the clock.
func count(t *testing.T, b *bin) int {
	t.Helper()
	synctest.Wait()
	left, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(left)
}

// inBin runs a test in a bubble with a bin; throw throws so many directories.
func inBin(t *testing.T, test func(t *testing.T, b *bin, throw func(int))) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b, err := openBin(filepath.Join(dir, "gone"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		test(t, b, func(n int) {
			for range n {
				if err := b.throw(trash(t, filepath.Join(dir, rand.Text()))); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
}

// Nothing is deleted while more comes, and all of it afterwards, or when the bin is
// closed.
func TestBinWaitsForALull(t *testing.T) {
	inBin(t, func(t *testing.T, b *bin, throw func(int)) {
		for i := range 6 {
			throw(1)
			if n := count(t, b); n != i+1 {
				t.Fatalf("%d in the bin after %d", n, i+1)
			}
			time.Sleep(lull - time.Millisecond)
		}
		time.Sleep(time.Millisecond)
		if n := count(t, b); n != 0 {
			t.Errorf("%d in the bin after a lull", n)
		}
		throw(1)
		b.close()
		if n := count(t, b); n != 0 {
			t.Errorf("%d in the bin that was closed", n)
		}
	})
}

func TestBinIsNotOverfilled(t *testing.T) {
	inBin(t, func(t *testing.T, b *bin, throw func(int)) {
		throw(1)
		time.Sleep(lull - time.Millisecond)
		throw(brim + 50)
		time.Sleep(time.Millisecond) // it looks once in a lull
		if n := count(t, b); n != brim {
			t.Errorf("%d in the bin, want %d", n, brim)
		}
	})
}

// A node on which something ends all the time gets its disk back, too.
func TestBinDoesNotWaitForEver(t *testing.T) {
	inBin(t, func(t *testing.T, b *bin, throw func(int)) {
		for began := time.Now(); time.Since(began) < patience; time.Sleep(lull / 2) {
			throw(1)
		}
		if n := count(t, b); n > 1 {
			t.Errorf("%d in the bin after %s", n, patience)
		}
	})
}

// What a killed process has left in the bin is deleted by the next one's.
func TestBinOfAProcessBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		trash(t, filepath.Join(dir, "left"))
		b, err := openBin(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		b.close()
		if n := count(t, b); n != 0 {
			t.Errorf("%d of the process before are left", n)
		}
	})
}
