package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/kubelet/node"
)

// TestInstallChecksFiles: files that the flags name and a node cannot start with are
// refused, by flag and file.
func TestInstallChecksFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text, empty := write("text", strings.Repeat("hello, this is no archive", 100)), write("empty", "")
	packed := write("packed", "\x1f\x8b\x08\x00") // is not looked into
	classes := write("classes", "Classes: {slow: [{Weight: 80}]}")
	for name, c := range map[string]struct {
		cfg  node.Config
		want string
	}{
		"nothing named":        {node.Config{}, ""},
		"good":                 {node.Config{Images: []string{packed}, BlockIOClasses: classes, OCIRuntime: "sh", Keeper: "/bin/sh"}, ""},
		"no archive there":     {node.Config{Images: []string{packed, "/no/such.tar"}}, `--image-archive "/no/such.tar": stat /no/such.tar: no such file`},
		"text for an archive":  {node.Config{Images: []string{text}}, `--image-archive "` + text + `": not a tar archive`},
		"an empty archive":     {node.Config{Images: []string{empty}}, `--image-archive "` + empty + `": it has neither`},
		"a directory for one":  {node.Config{Images: []string{dir}}, `--image-archive "` + dir + `": it has neither`},
		"no classes there":     {node.Config{BlockIOClasses: "/no/such.yaml"}, "--blockio-config-file: reading the block I/O classes: open /no/such.yaml: no such file"},
		"text for classes":     {node.Config{BlockIOClasses: text}, "--blockio-config-file: reading the block I/O classes of \"" + text + "\": it is a string"},
		"no OCI runtime there": {node.Config{OCIRuntime: "/no/such/runc"}, `--oci-runtime "/no/such/runc": there is no such file`},
		"no keeper there":      {node.Config{Keeper: text}, `--keeper "` + text + `": it is not executable`},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&install{}).checkFiles(&c.cfg)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
