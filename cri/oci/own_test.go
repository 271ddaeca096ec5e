package oci_test

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestSecondRuntimeIsRefused: two runtimes with one keeper would each end what
// the other started.
func TestSecondRuntimeIsRefused(t *testing.T) {
	n := newNode(t)
	images, err := image.Open(n.dir+"/images", nil)
	n.must(err)
	for what, change := range map[string]func(*oci.Config){
		"state": func(c *oci.Config) { c.RunDir = n.dir + "/run2" },
		"run":   func(c *oci.Config) { c.StateDir = n.dir + "/oci2" },
	} {
		cfg := n.cfg()
		cfg.Images = images
		change(&cfg)
		rt, err := oci.New(t.Context(), cfg)
		if !errors.Is(err, fault.AlreadyExists) {
			t.Errorf("with the same %s directory New says %v, want %q", what, err, fault.AlreadyExists)
		}
		if rt != nil {
			n.must(rt.Close())
		}
	}
}
