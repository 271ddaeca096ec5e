package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOOMKills(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	if _, err := oomKills(file); err == nil {
		t.Error("a file that is not there has no error")
	}
	for content, want := range map[string]int{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":           3, // v1
		"low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill": 1, // v2
		"": 0,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := oomKills(file); got != want || err != nil {
			t.Errorf("oomKills of %q is %d, %v, want %d", content, got, err, want)
		}
	}
}

// TestOOMWatch: the container's own count decides, and the one above it where
// the container's cgroup has gone.
func TestOOMWatch(t *testing.T) {
	const none, one = "oom_kill 0\n", "oom_kill 1\n"
	for name, c := range map[string]struct {
		own, above string // at the end; "" is gone
		code       int32
		want       bool
	}{
		"the container was killed":               {one, one, 137, true},
		"a child was, and the container failed":  {one, one, 1, true},
		"a child was, and the container went on": {one, one, 0, false},
		"another of the Pod's was":               {none, one, 137, false},
		"its cgroup is gone":                     {"", one, 137, true},
		"it is gone, and nothing was killed":     {"", none, 137, false},
		"it is gone, and the end was another":    {"", one, 1, false},
		"both are gone":                          {"", "", 137, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			own, above := filepath.Join(dir, "c", "events"), filepath.Join(dir, "events")
			write := func(file, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(file); err != nil {
					t.Fatal(err)
				}
				if text == "" {
					return
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(above, none)
			w := watchOOM(own)
			write(own, c.own)
			write(above, c.above)
			if got := w.killed(c.code); got != c.want {
				t.Errorf("killed is %v", got)
			}
		})
	}
	// A kill that came before the container is not its own.
	above := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(above, []byte(one), 0o600); err != nil {
		t.Fatal(err)
	}
	if watchOOM(filepath.Join(filepath.Dir(above), "c", "events")).killed(137) {
		t.Error("an earlier kill counts")
	}
	if watchOOM("").killed(137) {
		t.Error("without a file a kill is seen")
	}
}
