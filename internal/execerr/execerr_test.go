package execerr_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/execerr"
)

func TestExplain(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"script of Windows": {"#!/bin/sh\r\nexit 0\r\n", "in Go, build with CGO_ENABLED=0)"},
		"no interpreter":    {"#!/nowhere/sh\n", "in Go, build with CGO_ENABLED=0)"},
		"plain text":        {"hello\n", "and names its interpreter"},
		"no file":           {"", "no such file or directory"},
	} {
		file := filepath.Join(t.TempDir(), "program")
		if tt.content != "" {
			if err := os.WriteFile(file, []byte(tt.content), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		err := execerr.Explain(file, exec.Command(file).Run())
		if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}
