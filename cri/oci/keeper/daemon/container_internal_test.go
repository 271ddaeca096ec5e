package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOOMKills(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	if got := oomKills(file); got != 0 {
		t.Errorf("without a file there are %d kills", got)
	}
	for content, want := range map[string]int{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":           3, // v1
		"low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill": 1, // v2
		"": 0,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := oomKills(file); got != want {
			t.Errorf("oomKills of %q is %d, want %d", content, got, want)
		}
	}
}
