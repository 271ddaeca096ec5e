package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// TestNRITimeout: no plugin can answer in less than no time.
func TestNRITimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		f := nriFlags{node.NRI{Timeout: timeout}}
		if got, err := f.parse(); err != nil || got.Timeout != timeout {
			t.Errorf("%v: %v, %v", timeout, got.Timeout, err)
		}
	}
	f := nriFlags{node.NRI{Timeout: -time.Second}}
	if _, err := f.parse(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--nri-timeout -1s") {
		t.Errorf("a negative one: %v", err)
	}
}

// TestNRIPluginDir: a mistyped directory is not one without plugins.
func TestNRIPluginDir(t *testing.T) {
	dir := t.TempDir()
	f := nriFlags{node.NRI{PluginDir: dir}}
	if got, err := f.parse(); err != nil || got.PluginDir != dir {
		t.Errorf("%q: %q, %v", dir, got.PluginDir, err)
	}
	f.PluginDir += "x"
	if _, err := f.parse(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "there is no such directory") {
		t.Errorf("one that is not there: %v", err)
	}
}
