package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// Whatever a container puts in the place of its log, no other file is touched and
// nobody waits.
func TestOpenLogTouchesNoOtherFile(t *testing.T) {
	for name, put := range map[string]func(path, other string) error{
		"a symbolic link": func(path, other string) error { return os.Symlink(other, path) },
		"a hard link":     func(path, other string) error { return os.Link(other, path) },
		"a pipe":          func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"a dangling link": func(path, other string) error { return os.Symlink(other+".new", path) },
	} {
		dir := t.TempDir()
		path, other := filepath.Join(dir, "0.log"), filepath.Join(dir, "other")
		if err := errors.Join(os.WriteFile(other, []byte("kept"), 0o600), put(path, other)); err != nil {
			t.Fatal(err)
		}
		fd, err := logPlace{path: path}.open()
		if err == nil {
			t.Errorf("%s was opened", name)
			unix.Close(fd)
		} else if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(other + ".new"); err == nil {
			t.Errorf("%s: another file was made", name)
		}
	}
	path := filepath.Join(t.TempDir(), "0.log")
	for range 2 { // made, and gone on with
		fd, err := logPlace{path: path}.open()
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}

// A log that can be asked nothing of, on another machine perhaps that has lost it, loses
// what is written. The container does not wait for it, nor does anybody else.
func TestLostLog(t *testing.T) {
	s := newTestServer(t)
	std := s.streams.newStdio(s.escrow.newHolding("c", record{}), s.log)
	child, err := std.open()
	if err != nil {
		t.Fatal(err)
	}
	std.log = newLogFile(logPlace{path: "lost"}, 1, 1<<30)
	if err := std.pump(); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := child[1].WriteString(strings.Repeat("a line\n", 50_000))
		wire.CloseAll(child[:])
		wrote <- err
	}()
	select {
	case <-std.drained:
	case <-time.After(10 * time.Second):
		t.Fatal("its output is not read")
	}
	if err := <-wrote; err != nil || std.lost != 350_000 {
		t.Errorf("%d bytes are said to be lost, want all of 350000: %v", std.lost, err)
	}
}

// A desk whose log is lost at a takeover is left empty for the next one who uses it.
func TestTakeoverOfALostLog(t *testing.T) {
	s := newTestServer(t)
	k, err := s.streams.desks.take()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(k.transit[1], []byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	*k.slot = slot{busy: 1, key: 1, size: 50, take: 7}
	if err := newLogFile(logPlace{path: "lost"}, 1, 1<<30).finish(k, -1); err == nil {
		t.Error("nobody is told")
	}
	if n := held(k.transit[0]); n > 0 || k.slot.busy != 0 {
		t.Errorf("the desk has %d bytes, and is busy: %d", n, k.slot.busy)
	}
}

// Half a record that a keeper has left, on a full disk, takes none of the next
// keeper's along.
func TestTornLog(t *testing.T) {
	s := newTestServer(t)
	k, err := s.streams.desks.take()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer unix.Close(r)
	for before, want := range map[string]string{"": "", "a line\n": "a line\n", "half a l": "half a l\n"} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := logPlace{path: path}.open()
		if err != nil {
			t.Fatal(err)
		}
		l := newLogFile(logPlace{path: path}, 1, fd)
		for _, text := range []string{"one\n", "two\n"} {
			if _, err := w.WriteString(text); err != nil {
				t.Fatal(err)
			}
			p := &piece{pipe: r, take: len(text), records: []byte(text), spare: make([]byte, 16)}
			if err := l.record(k, p); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want+"one\ntwo\n" {
			t.Errorf("after %q the log is %q, %v", before, got, err)
		}
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}
}

// What finds no room is left out by whole records, and what is printed when there is
// room again is there.
func TestFullLog(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", 2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "0.log")
	fd, err := logPlace{path: path}.open()
	if err != nil {
		t.Fatal(err)
	}
	l := newLogFile(logPlace{path: path}, 1, fd)
	line := strings.Repeat("x", 99) + "\n"
	fits := os.Getpagesize() / len(line)
	l.inspect(0)
	for range 2 { // half of a record fits, and then nothing
		if err := l.write([]byte(strings.Repeat(line, fits+1))); !errors.Is(err, unix.ENOSPC) || l.torn {
			t.Fatalf("%v, torn: %v; want a full disk, and no half of a record", err, l.torn)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := l.write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != strings.Repeat(line, fits)+"after\n" {
		t.Errorf("the log is %q, %v", got, err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}
