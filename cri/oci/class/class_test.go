package class_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/class"
)

// TestChosen: the most particular annotation counts, each kind of class has its
// own, and an empty value is for none.
func TestChosen(t *testing.T) {
	const blockIO, rdt = "blockio.resources.beta.kubernetes.io/", "rdt.resources.beta.kubernetes.io/"
	for name, tc := range map[string]struct {
		own, pod     map[string]string
		blockIO, rdt string
	}{
		"nothing":                  {nil, nil, "", ""},
		"the Pod's":                {nil, map[string]string{blockIO + "pod": "b", rdt + "pod": "r"}, "b", "r"},
		"one kind":                 {nil, map[string]string{rdt + "pod": "r"}, "", "r"},
		"for this container":       {nil, map[string]string{blockIO + "pod": "b", blockIO + "container.main": "b2", rdt + "container.main": "r2"}, "b2", "r2"},
		"for another container":    {nil, map[string]string{blockIO + "container.other": "b", rdt + "container.other": "r"}, "", ""},
		"the container's":          {map[string]string{"io.kubernetes.cri.blockio-class": "b3", "io.kubernetes.cri.rdt-class": "r3"}, map[string]string{blockIO + "container.main": "b", rdt + "container.main": "r"}, "b3", "r3"},
		"none for this container":  {nil, map[string]string{blockIO + "pod": "b", blockIO + "container.main": "", rdt + "pod": "r", rdt + "container.main": ""}, "", ""},
		"the Pod's on a container": {map[string]string{blockIO + "pod": "b", rdt + "pod": "r"}, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := class.Container{Name: "main", Annotations: tc.own, Pod: tc.pod}
			if c.BlockIO() != tc.blockIO || c.RDT() != tc.rdt {
				t.Errorf("block I/O class %q and RDT class %q, want %q and %q", c.BlockIO(), c.RDT(), tc.blockIO, tc.rdt)
			}
		})
	}
}
