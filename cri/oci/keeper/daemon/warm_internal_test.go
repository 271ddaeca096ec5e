package daemon

import (
	"os"
	"path/filepath"
	"testing"
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
