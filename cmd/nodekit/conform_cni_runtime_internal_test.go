package main

import (
	"io"
	"strings"
	"testing"
)

// TestCNIRuntimeDoors: a flag of the other door, or one that would have no effect, is refused
// by name.
func TestCNIRuntimeDoors(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--exec sh --check x", "check"},
		{"--exec sh --gc x", "gc"},
		{"--exec sh --status x", "status"},
		{"--exec sh --serve x", "serve"},
		{"--exec sh --own-netns", "own-netns"},
		{"--exec sh --ports", "ports"},
		{"--exec sh --del x", "del"},
		{"--add x --del x --ready x", "--ready"},
	} {
		cmd := newConformCNIRuntimeCommand()
		cmd.SetArgs(append(strings.Fields(c.args), "--rule", "NONE"))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}
