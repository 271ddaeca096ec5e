package oci

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSaysThatCRIULacks: the log says why; a client only learns that checkpoints are not
// supported.
func TestSaysThatCRIULacks(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var log bytes.Buffer
	if checkpoints(t.Context(), &Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, engine{path: "/bin/true"}) {
		t.Error("there are checkpoints without criu")
	}
	if !strings.Contains(log.String(), "criu is not in PATH") {
		t.Errorf("the log is %q", log.String())
	}
}

// TestLacksCRIU: a crun reports how it was built, and every runc supports criu.
func TestLacksCRIU(t *testing.T) {
	for says, want := range map[string]bool{
		"crun version 1.8.1\n+SYSTEMD +YAJL":       true,
		"crun version 1.8.1\n+SYSTEMD +CRIU +YAJL": false,
		"runc version 1.1.5":                       false,
	} {
		program := filepath.Join(t.TempDir(), "engine")
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := (engine{path: program}).lacksCRIU(t.Context()); got != want {
			t.Errorf("%q: %v", says, got)
		}
	}
}

// TestComplaint: the errors in criu's log are reported, except for the one that criu
// ignores.
func TestComplaint(t *testing.T) {
	log := filepath.Join(t.TempDir(), "dump.log")
	if got := complaint(log); got != "" {
		t.Errorf("of no log: %q", got)
	}
	text := "(00.1) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self\n(00.2) Warn  (criu/x.c:2): warned\n" +
		"(00.3) Error (criu/net.c:3): net: first\n(00.4) all is well\n(00.5) Error (criu/cr-dump.c:4): second\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := complaint(log), "criu: net: first; second"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
