package log_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/cri/log"
)

// TestNotTheLogsOwn: a container that can write to its log's directory puts something else
// there. It is neither written to nor waited at.
func TestNotTheLogsOwn(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "log")
	for name, put := range map[string]func() error{
		"a link":           func() error { return os.Symlink(victim, path) },
		"a link to nobody": func() error { return os.Symlink(filepath.Join(dir, "new"), path) },
		"a named pipe":     func() error { return syscall.Mkfifo(path, 0o600) },
		"a device":         func() error { return os.Symlink(os.DevNull, path) },
	} {
		if err := os.WriteFile(victim, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := log.Open(filepath.Split(path))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if err := w.Reopen(); err == nil {
			t.Errorf("%s was opened again", name)
		}
		if _, err := w.Append(log.Stdout, []byte("text\n"), true); err != nil {
			t.Errorf("%s: the old file is not in use any more: %v", name, err)
		}
		if other, err := log.Open(filepath.Split(path)); err == nil {
			t.Errorf("%s was opened", name)
			other.Close()
		}
		if text, err := os.ReadFile(victim); err != nil || len(text) > 0 {
			t.Errorf("%s: the other file has %q, %v", name, text, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
		t.Error("a file was made at the end of a link")
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := log.Read(t.Context(), path, io.Discard, io.Discard, nil); err == nil {
		t.Error("a named pipe was read")
	}
}

// TestLinkInTheMiddle: below the log directory no link is followed, whether it leads out of
// it or not, and the log directory may be a link itself.
func TestLinkInTheMiddle(t *testing.T) {
	top := t.TempDir()
	dir, elsewhere := filepath.Join(top, "logs"), filepath.Join(top, "elsewhere")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(top, "real", "box"), 0o755), os.Symlink("real", dir), os.Mkdir(elsewhere, 0o755), os.Mkdir(filepath.Join(dir, "other"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := log.Open(dir, "box/0.log")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.Rename(filepath.Join(dir, "box"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{elsewhere, "../elsewhere", "other"} {
		if err := os.Symlink(to, filepath.Join(dir, "box")); err != nil {
			t.Fatal(err)
		}
		if err := w.Reopen(); err == nil {
			t.Errorf("the log was reopened behind a link to %s", to)
		}
		if other, err := log.Open(dir, "box/0.log"); err == nil {
			t.Errorf("a log was opened behind a link to %s", to)
			other.Close()
		}
		if err := os.Remove(filepath.Join(dir, "box")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Open(dir, "../elsewhere/0.log"); err == nil {
		t.Error("a log was opened outside of the log directory")
	}
	for _, place := range []string{elsewhere, filepath.Join(dir, "other")} {
		if found, err := os.ReadDir(place); err != nil || len(found) > 0 {
			t.Errorf("%s has %v, %v", place, found, err)
		}
	}
}
