package oci

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestDoubt: after a failed start, the profiles for that OCI runtime are complete again
// until it has shown anew that it uses a given program.
func TestDoubt(t *testing.T) {
	one, other := installed{path: "/bin/one"}, installed{path: "/bin/other"}
	f := filters{heeding: map[installed]bool{one: true, other: true}}
	f.doubt(engine{path: one.path})
	if f.heeding[one] || !f.heeding[other] {
		t.Errorf("heeding: %v", f.heeding)
	}
	(&filters{}).doubt(engine{path: one.path})
}

// TestOfferKeepsAnnotations: the annotations of NRI plugins are kept besides the program.
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
