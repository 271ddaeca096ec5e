package sockfile_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "s.sock") }

func listen(t *testing.T, path string) *sockfile.Listener {
	t.Helper()
	l, err := sockfile.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestOneOfMany begins with the socket of a killed process, which everybody
// wants to replace.
func TestOneOfMany(t *testing.T) {
	for range 30 {
		path := socket(t)
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		var mu sync.Mutex
		var won []*sockfile.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := sockfile.Listen(path)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, l)
				} else if !errors.Is(err, fault.AlreadyExists) || !strings.Contains(err.Error(), "stop it, or choose another path") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 || !won[0].Present() {
			t.Fatalf("%d listen at one path", len(won))
		}
		won[0].Close()
	}
}

// TestNeverRefused dials as soon as the path is there.
func TestNeverRefused(t *testing.T) {
	path := socket(t)
	seen := make(chan error, 1)
	go func() {
		for {
			if _, err := os.Lstat(path); err == nil {
				c, err := net.Dial("unix", path)
				if err == nil {
					c.Close()
				}
				seen <- err
				return
			}
		}
	}()
	l := listen(t, path)
	if err := <-seen; err != nil {
		t.Error(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if got := l.Addr().String(); got != path {
		t.Errorf("the address is %q", got)
	}
}

func TestCloseLeavesASuccessor(t *testing.T) {
	path := socket(t)
	first := listen(t, path)
	if err := os.Remove(path); err != nil { // as an administrator does
		t.Fatal(err)
	}
	second := listen(t, path)
	if first.Present() || !second.Present() {
		t.Error("the instances are not told apart")
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}
	if !second.Present() {
		t.Error("the end of the first removed the second's file")
	}
	second.Close()
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRefused(t *testing.T) {
	listen := func(path string) error {
		l, err := sockfile.Listen(path)
		if err == nil {
			l.Close()
		}
		return err
	}
	for name, call := range map[string]func(string) error{"Listen": listen, "Check": sockfile.Check} {
		t.Run(name, func(t *testing.T) { testRefused(t, call) })
	}
	path := socket(t)
	l, err := sockfile.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := listen(path); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a socket that is served: %v", err)
	}
	if err := sockfile.Check(path); err != nil {
		t.Errorf("whoever serves it now: %v", err)
	}
}

func testRefused(t *testing.T, call func(path string) error) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	if err := call(filepath.Join(missing, "s")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make the directory first") {
		t.Errorf("no directory: %v", err)
	}
	if _, err := os.Lstat(missing); err == nil {
		t.Error("something was made in place of the directory")
	}
	if err := call("/" + strings.Repeat("x", sockfile.MaxPath)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a long path: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := call(file); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a file in the way: %v", err)
	}
	if err := call(filepath.Join(file, "s")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file in place of the directory: %v", err)
	}
	if id, err := sockfile.Identify(file); id != nil || err != nil {
		t.Errorf("a file is taken for a socket: %v, %v", id, err)
	}
	if err := call(filepath.Join(dir, "s")); err != nil {
		t.Errorf("where nothing is: %v", err)
	}
}
