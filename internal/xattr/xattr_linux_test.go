package xattr_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/internal/xattr"
)

// TestReads uses trusted attributes, which every file system of a node has.
func TestReads(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours := func(names []string) []string { // security modules add their own
		return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "trusted.nodekit-") })
	}
	if names, err := xattr.List(int(f.Fd())); err != nil || len(ours(names)) != 0 {
		t.Errorf("a file without attributes has %q, %v", names, err)
	}
	long := bytes.Repeat([]byte("x"), 2000)
	for name, value := range map[string][]byte{"trusted.nodekit-long": long, "trusted.nodekit-empty": nil} {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"trusted.nodekit-empty", "trusted.nodekit-long"}
	for what, list := range map[string]func() ([]string, error){
		"List": func() ([]string, error) { return xattr.List(int(f.Fd())) }, "ListAt": func() ([]string, error) { return xattr.ListAt(path) },
	} {
		names, err := list()
		if names = ours(names); err != nil || !slices.Equal(slices.Sorted(slices.Values(names)), want) {
			t.Errorf("%s returns %q, %v, want %q", what, names, err, want)
		}
	}
	for what, get := range map[string]func(string) ([]byte, error){
		"Get": func(name string) ([]byte, error) { return xattr.Get(int(f.Fd()), name) }, "GetAt": func(name string) ([]byte, error) { return xattr.GetAt(path, name) },
	} {
		if value, err := get("trusted.nodekit-long"); err != nil || !bytes.Equal(value, long) {
			t.Errorf("%s returns %d bytes, %v, want %d", what, len(value), err, len(long))
		}
		if value, err := get("trusted.nodekit-empty"); err != nil || len(value) != 0 {
			t.Errorf("%s of an empty attribute returns %q, %v", what, value, err)
		}
		if _, err := get("trusted.nodekit-none"); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s of an attribute that is not there returns %v, want ENODATA", what, err)
		}
	}
}
