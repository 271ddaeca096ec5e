package warm

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// childEnv has the test binary be a process that writes until its stdin ends, as it does
// with the test, however that ends.
const childEnv = "NODEKIT_TEST_WARM"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		l := New()
		_ = nspin.OnThrowAwayThread(func() error {
			for { // also when a write came too late and failed
				_ = l.touch()
			}
		})
	}
	os.Exit(m.Run())
}

// TestTouch: the write succeeds and leaves the process where it is.
func TestTouch(t *testing.T) {
	testenv.Require(t, testenv.Root)
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if err := nspin.OnThrowAwayThread(New().touch); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(after) != string(before) {
		t.Errorf("it was in %s and is in %s: %v", before, after, err)
	}
}

// TestMovedMeanwhile: a process that somebody moves while it writes is where it was
// moved to.
func TestMovedMeanwhile(t *testing.T) {
	testenv.Require(t, testenv.Root)
	top := fmt.Sprintf("/nodekit-test-%08x", rand.Uint32())
	t.Cleanup(func() {
		if err := errors.Join(cgroup.Kill(top), cgroup.Remove(top)); err != nil {
			t.Error(err)
		}
	})
	places := []string{top + "/a", top + "/b"}
	for _, p := range places {
		if err := cgroup.Create(p); err != nil {
			t.Fatal(err)
		}
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1")
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	for i := range 100 {
		to := places[i%2]
		if err := cgroup.Enter(to, child.Process.Pid); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		where, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", child.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(where), places[1-i%2]) {
			t.Fatalf("move %d, to %s: it is in %s", i, to, where)
		}
	}
}

func TestOwnTasks(t *testing.T) {
	mounts := t.TempDir()
	for _, file := range []string{"memory/a/tasks", "systemd/b/tasks", "unified/c/cgroup.threads", "d e/cgroup.threads"} {
		file = filepath.Join(mounts, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for list, want := range map[string]string{
		"0::/d e\n":                         "d e/cgroup.threads",
		"4:memory:/a\n0::/c\n":              "memory/a/tasks",
		"4:memory:/x\n1:name=systemd:/b\n":  "systemd/b/tasks",
		"4:memory:/x\n":                     "",
		"nonsense\n4:memory\n4:memory:/a\n": "memory/a/tasks",
		"":                                  "",
	} {
		file := filepath.Join(mounts, "list")
		if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		if want != "" {
			want = filepath.Join(mounts, want)
		}
		if got := ownTasks(file, mounts); got != want {
			t.Errorf("of %q: %q, want %q", list, got, want)
		}
	}
	if got := ownTasks(filepath.Join(mounts, "absent"), mounts); got != "" {
		t.Errorf("without a list: %q", got)
	}
}

// lock is the kernel's, which waits when it is cold, or never.
type lock struct {
	waits time.Duration

	mu     sync.Mutex
	last   time.Time
	writes int
}

func (l *lock) touch() error {
	if rest, _ := l.seen(); rest > 12*time.Millisecond {
		time.Sleep(l.waits)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = time.Now()
	l.writes++
	return nil
}

// seen returns how long nobody has written, and how often somebody has.
func (l *lock) seen() (rest time.Duration, writes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.last), l.writes
}

// test gives a test, in a bubble, the kernel's lock that waits so long, and a Lock.
func test(t *testing.T, waits time.Duration, fn func(t *testing.T, k *lock, l *Lock)) {
	synctest.Test(t, func(t *testing.T) {
		k := &lock{waits: waits}
		fn(t, k, &Lock{touch: k.touch})
		time.Sleep(time.Second)
		synctest.Wait()
	})
}

// TestKeep: a lock that waits is kept warm for a while after the last call, and one
// that does not is left alone.
func TestKeep(t *testing.T) {
	for what, c := range map[string]struct {
		waits       time.Duration
		calls       int
		least, most int
	}{
		"a kernel that waits":        {8 * time.Millisecond, 1, 23, 26},
		"another call":               {8 * time.Millisecond, 2, 28, 32},
		"a kernel that never waits":  {0, 1, 1, 1},
		"never, and two calls of it": {0, 2, 2, 2},
	} {
		test(t, c.waits, func(t *testing.T, k *lock, l *Lock) {
			for range 3 {
				_, before := k.seen()
				for range c.calls {
					l.Keep()
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(time.Second)
				_, writes := k.seen()
				if writes -= before; writes < c.least || writes > c.most {
					t.Errorf("%s: %d writes, want %d to %d", what, writes, c.least, c.most)
				}
			}
		})
	}
}

// TestKeptWhenNeeded: a write of somebody else waits for nothing from a few milliseconds
// after the call on.
func TestKeptWhenNeeded(t *testing.T) {
	test(t, 8*time.Millisecond, func(t *testing.T, k *lock, l *Lock) {
		l.Keep()
		for range 8 {
			time.Sleep(10*time.Millisecond + time.Microsecond)
			if rest, _ := k.seen(); rest > 5*time.Millisecond {
				t.Errorf("nobody has written for %v", rest)
			}
		}
	})
}

// TestSoonAgain: what was seen after a rest counts for those who come right after
// somebody else.
func TestSoonAgain(t *testing.T) {
	test(t, 8*time.Millisecond, func(t *testing.T, k *lock, l *Lock) {
		for range 3 {
			_, before := k.seen()
			l.Keep()
			time.Sleep(enough + 20*time.Millisecond) // it is over, and the lock is cold
			if _, writes := k.seen(); writes-before < 20 {
				t.Errorf("%d writes in %v", writes-before, enough)
			}
		}
	})
}

// TestCannot: without a cgroup, or the right to write, nothing goes on.
func TestCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tried atomic.Int32
		l := &Lock{touch: func() error {
			tried.Add(1)
			time.Sleep(8 * time.Millisecond)
			return os.ErrPermission
		}}
		for range 2 {
			l.Keep()
			time.Sleep(time.Second)
		}
		if n := tried.Load(); n != 2 {
			t.Errorf("it tried %d times in two calls", n)
		}
	})
}
