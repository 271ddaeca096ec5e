package record

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
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

// count is how many directories are in the bin.
func count(t *testing.T, b *bin) int {
	t.Helper()
	left, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(left)
}

func testBin(t *testing.T) (b *bin, dir string) {
	t.Helper()
	dir = t.TempDir()
	b, err := openBin(filepath.Join(dir, "gone"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b, dir
}

// Nothing is deleted while more comes, and all of it afterwards, or when the bin is
// closed.
func TestBinWaitsForALull(t *testing.T) {
	b, dir := testBin(t)
	for i := range 6 {
		if err := b.throw(trash(t, filepath.Join(dir, fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
		if n := count(t, b); n != i+1 {
			t.Fatalf("%d in the bin after %d", n, i+1)
		}
		time.Sleep(lull / 4)
	}
	for deadline := time.Now().Add(10 * time.Second); count(t, b) > 0; time.Sleep(lull / 10) {
		if time.Now().After(deadline) {
			t.Fatal("the bin is not emptied")
		}
	}
	if err := b.throw(trash(t, filepath.Join(dir, "last"))); err != nil {
		t.Fatal(err)
	}
	b.close()
	if n := count(t, b); n != 0 {
		t.Errorf("%d in the bin that was closed", n)
	}
}

func TestBinThatIsTooFull(t *testing.T) {
	b, dir := testBin(t)
	for i := range brim + 50 {
		if err := b.throw(trash(t, filepath.Join(dir, fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); count(t, b) > brim; time.Sleep(time.Millisecond) {
		if err := b.throw(trash(t, filepath.Join(dir, rand.Text()))); err != nil || time.Now().After(deadline) {
			t.Fatalf("the bin has %d, %v", count(t, b), err)
		}
	}
	b.close()
}

// What a killed process has left in the bin is deleted by the next one's.
func TestBinOfAProcessBefore(t *testing.T) {
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
}
