package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
)

// TestAddDelegates looks at the order in which plugins are found.
func TestAddDelegates(t *testing.T) {
	bin := t.TempDir() // stands for the one that holds the program cni
	if err := os.WriteFile(filepath.Join(bin, "cni"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	named := []string{"/first", "/second"}
	root := t.TempDir()
	own := filepath.Join(root, "cni", "bin")
	for _, c := range []struct {
		cfg  RuntimeConfig
		want []string
	}{
		{RuntimeConfig{Root: root, CNIConfDir: "/conf"}, []string{"/first", "/second", own}},
		{RuntimeConfig{Root: root, chainType: "mine"}, []string{"/first", own, "/second"}},
	} {
		n := cniruntime.Config{BinDirs: slices.Clone(named)}
		if err := addDelegates(&n, &c.cfg); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, n.BinDirs); diff != "" {
			t.Error(diff)
		}
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if _, err := exec.LookPath(filepath.Join(own, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestNetworkInWords: a bridge is told of only where there is one.
func TestNetworkInWords(t *testing.T) {
	network := Network{Bridge: "nk-1", Subnet: "10.1.2.0/24"}
	for want, cfg := range map[string]RuntimeConfig{
		"bridge nk-1, Pods in 10.1.2.0/24":                 {Network: network},
		"network nk-1 of plugin mine, Pods in 10.1.2.0/24": {Network: network, chainType: "mine"},
		"network nk-1 of plugin mine":                      {Network: network, chainType: "mine", chainBare: true},
	} {
		if got := cfg.network(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
