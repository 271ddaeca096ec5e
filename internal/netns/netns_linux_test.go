package netns_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/panics"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func currentID(t *testing.T) netns.ID {
	t.Helper()
	h, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	id, err := h.ID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pinned(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestLifeCycle(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := pinned(t)
	if err := netns.Create(path); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("creating it twice: %v", err)
	}
	var seen string
	if err := netns.Do(path, func() error {
		out, err := exec.Command("ip", "-br", "link").Output()
		seen = string(out)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(seen), "\n"); len(lines) == 0 || !strings.Contains(seen, "LOOPBACK,UP") || strings.Contains(seen, "veth") {
		t.Errorf("links in the new namespace: %q", seen)
	}
	for range 2 {
		if err := netns.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin is still there: %v", err)
	}
	if err := netns.Do(path, func() error { return nil }); !errors.Is(err, fault.NotFound) {
		t.Errorf("entering a namespace that is gone: %v", err)
	}
}

// TestCookie makes namespaces until the kernel gives one the numbers of another
// that is gone. It takes namespaces down on its own time, which others' may take
// up for seconds: the more there have been, the longer it gets.
func TestCookie(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := filepath.Join(t.TempDir(), "ns")
	seen := map[netns.ID]uint64{}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Duration(len(seen)) * 100 * time.Microsecond) {
		if err := netns.Create(path); err != nil {
			t.Fatal(err)
		}
		h, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		id, err := h.ID()
		first, ferr := h.Cookie()
		again, aerr := h.Cookie()
		if err := errors.Join(err, ferr, aerr, h.Close(), netns.Remove(path)); err != nil {
			t.Fatal(err)
		}
		if first != again {
			t.Fatalf("the cookie was %d and is %d", first, again)
		}
		if earlier, reused := seen[id]; reused {
			if earlier == first {
				t.Errorf("two namespaces have the cookie %d", first)
			}
			return
		}
		seen[id] = first
	}
	t.Error("no number was given twice")
}

// TestCreateAfterCrash starts from what a crash leaves: the file without the mount.
func TestCreateAfterCrash(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := netns.Open(path); !errors.Is(err, fault.Invalid) {
		t.Errorf("opening a plain file: %v", err)
	}
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	if err := netns.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestCurrent: with the right to ask a socket and without it, the answer is the thread's
// namespace, wherever that is.
func TestCurrent(t *testing.T) {
	testenv.Require(t, testenv.Root)
	err := netns.Do(pinned(t), func() error {
		var want unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &want); err != nil {
			return err
		}
		for _, what := range []string{"privileged", "without capabilities"} {
			if what != "privileged" {
				restore := withoutCapabilities(t)
				defer restore()
			}
			if got, err := netns.CurrentID(); err != nil || got != (netns.ID{Dev: want.Dev, Ino: want.Ino}) {
				t.Errorf("%s: %v, %v; want %d:%d", what, got, err, want.Dev, want.Ino)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// withoutCapabilities takes the calling thread's, until restore is called.
func withoutCapabilities(t *testing.T) (restore func()) {
	t.Helper()
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(header, &had[0]); err != nil {
		t.Fatal(err)
	}
	few := had
	few[0].Effective, few[1].Effective = 0, 0
	if err := unix.Capset(header, &few[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(header, &had[0]); err != nil {
			t.Error(err)
		}
	}
}

// TestNoThreadStrays enters from many goroutines at once, with functions that
// fail, panic and wander off to a namespace of their own, and then looks where
// the threads that run ordinary goroutines are.
func TestNoThreadStrays(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := pinned(t)
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for name, enter := range map[string]func(func() error) error{
		"Do":    func(fn func() error) error { return netns.Do(path, fn) },
		"Visit": func(fn func() error) error { return netns.Visit(h.FD(), fn) },
	} {
		t.Run(name, func(t *testing.T) { noThreadStrays(t, enter) })
	}
}

func noThreadStrays(t *testing.T, enter func(func() error) error) {
	home := currentID(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			defer func() {
				p := recover()
				if (p != nil) != (i%4 == 1) || p != nil && !strings.HasPrefix(panics.Of(p).Place(), "netns_linux_test.go:") {
					t.Errorf("goroutine %d: panic %v", i, p)
				}
			}()
			_ = enter(func() error {
				if id := currentID(t); id == home {
					t.Errorf("goroutine %d is not in the namespace", i)
				}
				switch i % 4 {
				case 0:
					return errors.New("no luck")
				case 1:
					panic("an author's mistake")
				case 2:
					return unix.Unshare(unix.CLONE_NEWNET)
				}
				return nil
			})
			if id := currentID(t); id != home {
				t.Errorf("goroutine %d is in namespace %v, not %v", i, id, home)
			}
		})
	}
	wg.Wait()
}

// TestLost: a process whose thread cannot return from a visit ends.
func TestLost(t *testing.T) {
	testenv.Require(t, testenv.Root)
	if path := os.Getenv("TEST_LOST"); path != "" {
		h, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = netns.Visit(h.FD(), func() error {
			withoutCapabilities(t)
			return nil
		})
		os.Exit(0)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLost$")
	cmd.Env = append(os.Environ(), "TEST_LOST="+pinned(t))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "leaving a network namespace") {
		t.Errorf("%v: %s", err, out)
	}
}

func BenchmarkVisit(b *testing.B) {
	testenv.Require(b, testenv.Root)
	path := filepath.Join(b.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		b.Fatal(err)
	}
	defer netns.Remove(path)
	h, err := netns.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	for b.Loop() {
		if err := netns.Visit(h.FD(), func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	testenv.Require(b, testenv.Root)
	path := filepath.Join(b.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		b.Fatal(err)
	}
	defer netns.Remove(path)
	for b.Loop() {
		if err := netns.Do(path, func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// TestGoexit: who ends the goroutine in fn ends that of the caller, and fn never counts as
// one that succeeded.
func TestGoexit(t *testing.T) {
	testenv.Require(t, testenv.Root)
	went := make(chan bool, 1)
	var ended sync.WaitGroup
	ended.Go(func() {
		_ = netns.Do("/proc/self/ns/net", func() error {
			runtime.Goexit()
			return nil
		})
		went <- true
	})
	ended.Wait()
	if len(went) > 0 {
		t.Error("the caller went on")
	}
}
