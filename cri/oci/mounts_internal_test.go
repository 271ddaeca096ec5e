package oci

import (
	"os"
	"path/filepath"
	"testing"
)

// TestInside: symbolic links of an image are resolved within the image.
func TestInside(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "etc/app"), 0o755),
		os.Symlink("/etc", filepath.Join(root, "absolute")),
		os.Symlink("../../../../../../../../../etc", filepath.Join(root, "relative")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"etc/app": "etc/app", "absolute/app": "etc/app", "relative/app": "etc/app", "../../etc/app": "etc/app", "absolute/passwd": "", "none": "",
	} {
		at, err := inside(root, path)
		if want != "" {
			want = filepath.Join(root, want)
		}
		if at != want || (err == nil) != (want != "") {
			t.Errorf("%q is at %q, %v; want %q", path, at, err, want)
		}
	}
}
