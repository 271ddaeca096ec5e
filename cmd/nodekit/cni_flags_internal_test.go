package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestCNITimeouts(t *testing.T) {
	for _, c := range []struct {
		values []string
		each   time.Duration
		byType map[string]time.Duration
	}{
		{nil, 0, nil},
		{[]string{"90s"}, 90 * time.Second, nil},
		{[]string{"calico=3m"}, 0, map[string]time.Duration{"calico": 3 * time.Minute}},
		{[]string{"calico=3m", "2m", "cilium-cni=5s"}, 2 * time.Minute, map[string]time.Duration{"calico": 3 * time.Minute, "cilium-cni": 5 * time.Second}},
	} {
		f := timeoutFlags{c.values}
		each, byType, err := f.parse()
		if diff := cmp.Diff(c.byType, byType); err != nil || each != c.each || diff != "" {
			t.Errorf("%q: %v, %v\n%s", c.values, each, err, diff)
		}
	}
	for _, values := range [][]string{{"0"}, {"-1s"}, {"60"}, {""}, {"calico"}, {"calico="}, {"=1s"}, {"bin/calico=1s"}, {"calico=-1s"}, {"1s", "2s"}, {"a=1s", "a=1s"}} {
		f := timeoutFlags{values}
		if each, byType, err := f.parse(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--cni-timeout") {
			t.Errorf("%q: %v, %v, %v", values, each, byType, err)
		}
	}
}

func TestImportCache(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for named, want := range map[string]string{"": "", "results": filepath.Join(dir, "results"), "/var/lib/cni/results": "/var/lib/cni/results"} {
		if err := completeImportCache(&named, "/etc/cni/net.d"); err != nil || named != want {
			t.Errorf("%q, %v, want %q", named, err, want)
		}
	}
	none, named := "", "results"
	if err := completeImportCache(&none, ""); err != nil {
		t.Error(err)
	}
	if err := completeImportCache(&named, ""); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--cni-conf-dir") {
		t.Errorf("without a configuration: %v", err)
	}
}
