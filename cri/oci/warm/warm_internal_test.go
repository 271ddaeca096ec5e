package warm

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestOwnProcs(t *testing.T) {
	mounts := t.TempDir()
	for _, dir := range []string{"memory/a", "systemd/b", "unified/c", "d e"} {
		if err := os.MkdirAll(filepath.Join(mounts, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mounts, dir, "cgroup.procs"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for list, want := range map[string]string{
		"0::/d e\n":                         "d e/cgroup.procs",
		"4:memory:/a\n0::/c\n":              "memory/a/cgroup.procs",
		"4:memory:/x\n1:name=systemd:/b\n":  "systemd/b/cgroup.procs",
		"4:memory:/x\n":                     "",
		"nonsense\n4:memory\n4:memory:/a\n": "memory/a/cgroup.procs",
		"":                                  "",
	} {
		file := filepath.Join(mounts, "list")
		if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		if want != "" {
			want = filepath.Join(mounts, want)
		}
		if got := ownProcs(file, mounts); got != want {
			t.Errorf("of %q: %q, want %q", list, got, want)
		}
	}
	if got := ownProcs(filepath.Join(mounts, "absent"), mounts); got != "" {
		t.Errorf("without a list: %q", got)
	}
}

// lock is the kernel's, which waits when it is cold, or never.
type lock struct {
	waits  time.Duration
	last   time.Time
	writes int
}

func (l *lock) Write(b []byte) (int, error) {
	if time.Since(l.last) > 12*time.Millisecond {
		time.Sleep(l.waits)
	}
	l.last = time.Now()
	l.writes++
	return len(b), nil
}

func (l *lock) Close() error { return nil }

// test gives a test, in a bubble, the kernel's lock that waits so long, and a Lock.
func test(t *testing.T, waits time.Duration, fn func(t *testing.T, k *lock, l *Lock)) {
	synctest.Test(t, func(t *testing.T) {
		k := &lock{waits: waits}
		fn(t, k, &Lock{open: func() (io.WriteCloser, error) { return k, nil }})
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
				k.writes = 0
				for range c.calls {
					l.Keep()
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(time.Second)
				if k.writes < c.least || k.writes > c.most {
					t.Errorf("%s: %d writes, want %d to %d", what, k.writes, c.least, c.most)
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
			if rest := time.Since(k.last); rest > 5*time.Millisecond {
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
			k.writes = 0
			l.Keep()
			time.Sleep(enough + 20*time.Millisecond) // it is over, and the lock is cold
			if k.writes < 20 {
				t.Errorf("%d writes in %v", k.writes, enough)
			}
		}
	})
}

// TestCannot: without a cgroup, or the right to write, nothing goes on.
func TestCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		l := &Lock{open: func() (io.WriteCloser, error) { opened++; return nil, os.ErrPermission }}
		for range 2 {
			l.Keep()
			synctest.Wait()
		}
		if opened != 2 {
			t.Errorf("it tried %d times in two calls", opened)
		}
	})
}
