package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandOf(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, mode := range map[string]os.FileMode{"nk-plugin": 0o755, "nk-main.go": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"./nk-plugin --dir $(KUBELET_DIR)": "",
		"sh -c true":                       "",
		"$(STATE_DIRECTORY)/program":       "",
		" ":                                "--exec is empty",
		"'./nk-plugin":                     "a quote is not closed",
		"./nowhere -v":                     `--exec "./nowhere -v": there is no such file`,
		".":                                "it is a directory",
		"./nk-main.go":                     "it is not executable",
		"nk-plugin":                        `there is no "nk-plugin" in PATH: write ./nk-plugin`,
		"nk-nothing":                       `there is no "nk-nothing" in PATH`,
	} {
		command, err := commandOf(line)
		if want == "" {
			if err != nil || len(command) == 0 {
				t.Errorf("%s: %q, %v", line, command, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}
