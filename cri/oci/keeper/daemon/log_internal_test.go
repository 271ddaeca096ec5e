package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
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
		fd, err := openLog(path)
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
		fd, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
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
		fd, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		l := newLogFile(path, 1, fd)
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
