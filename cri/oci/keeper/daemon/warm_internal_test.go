package daemon

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

// TestWarm: a lock that waits is kept warm for as long as the runtime runs, at most
// warmFor, and one that does not is left alone.
func TestWarm(t *testing.T) {
	for what, c := range map[string]struct {
		waits, run  time.Duration
		least, most int
	}{
		"a kernel that waits":                     {8 * time.Millisecond, 40 * time.Millisecond, 7, 10},
		"a runtime that takes long":               {8 * time.Millisecond, time.Second, 23, 26},
		"a runtime that is quicker than the lock": {8 * time.Millisecond, time.Millisecond, 1, 1},
		"a kernel that never waits":               {0, 40 * time.Millisecond, 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &lock{waits: c.waits}
			w := &warmer{open: func() (io.WriteCloser, error) { return l, nil }}
			for range 3 {
				l.writes = 0
				end := w.warm()
				time.Sleep(c.run)
				end()
				time.Sleep(time.Second)
				if l.writes < c.least || l.writes > c.most {
					t.Errorf("%s: %d writes, want %d to %d", what, l.writes, c.least, c.most)
				}
			}
		})
	}
}

// TestWarmSoonAgain: what was seen after a rest counts for those who come right
// after somebody else.
func TestWarmSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lock{waits: 8 * time.Millisecond}
		w := &warmer{open: func() (io.WriteCloser, error) { return l, nil }}
		for range 3 {
			l.writes = 0
			end := w.warm()
			time.Sleep(40 * time.Millisecond)
			end()
			time.Sleep(5 * time.Millisecond)
			if l.writes < 7 {
				t.Errorf("%d writes in 40 ms", l.writes)
			}
		}
	})
}
