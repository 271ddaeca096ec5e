package oci

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestDoubt: after a start that failed nothing is left out for that OCI runtime any
// more, until it has shown again that it takes a program.
func TestDoubt(t *testing.T) {
	one, other := installed{path: "/bin/one"}, installed{path: "/bin/other"}
	f := filters{heeding: map[installed]bool{one: true, other: true}}
	f.doubt(engine{path: one.path})
	if f.heeding[one] || !f.heeding[other] {
		t.Errorf("heeding: %v", f.heeding)
	}
	(&filters{}).doubt(engine{path: one.path})
}

// TestOfferKeepsAnnotations: those of NRI plugins stay beside the program.
func TestOfferKeepsAnnotations(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var f filters
	offer := func() *specs.Spec {
		doc := &specs.Spec{Annotations: map[string]string{"from": "a plugin"}, Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{}}}
		if _, err := f.offer("box", engine{path: self}, doc); err != nil {
			t.Fatal(err)
		}
		return doc
	}
	offer()
	f.made = map[filterKey]string{f.starting["box"].key: "program"}
	if got := offer().Annotations; got["from"] != "a plugin" || got[filterAnnotation] != "program" {
		t.Errorf("annotations: %v", got)
	}
}
