package oci

import (
	"bytes"
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

// TestImprove: a file that is no program is not given to a container, nor one that would
// be longer than the kernel takes.
func TestImprove(t *testing.T) {
	end := []byte("\x06\x00\x00\x00\x00\x00\xff\x7f") // BPF_RET, SECCOMP_RET_ALLOW
	for _, n := range []int{1, 2, 4095} {
		if got := improve(bytes.Repeat(end, n)); len(got) == 0 || len(got) > 4096*len(end) {
			t.Errorf("%d instructions became %d bytes", n, len(got))
		}
	}
	odd := bytes.Repeat([]byte("\x87\x00\x00\x00\x00\x00\x00\x00"), 4095) // BPF_MISC|BPF_TXA
	if got := improve(append(odd[8:], end...)); len(got) != 4096*len(end) {
		t.Errorf("a program that is not understood became %d bytes", len(got))
	}
	for name, file := range map[string][]byte{
		"empty": {}, "cut": end[:7], "long": bytes.Repeat(end, 5000), "without room": append(odd, end...),
	} {
		if got := improve(file); got != nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}
