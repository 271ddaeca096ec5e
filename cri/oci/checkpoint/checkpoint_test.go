package checkpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/checkpoint"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// written makes a checkpoint of two containers and returns its directory.
func written(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	write(t, dir, func() {})
	return dir
}

// write makes it in dir, and something else happen in between.
func write(t *testing.T, dir string, between func()) {
	t.Helper()
	d, err := checkpoint.Prepare(dir, 2)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	between()
	create := func(name, text string) {
		t.Helper()
		f, err := d.Create(name)
		must(t, err)
		_, err = f.WriteString(text)
		must(t, err, f.Close())
	}
	for i := range 2 {
		must(t, os.WriteFile(filepath.Join(d.Images(i), "pages-1.img"), []byte("memory"), 0o600))
		must(t, d.PutSpec(i, &specs.Spec{Version: "1.0.2", Process: &specs.Process{Args: []string{"x"}, Cwd: "/"}, Root: &specs.Root{Path: "r"}, Linux: &specs.Linux{}}))
		create(checkpoint.Changes(i), "tar")
	}
	create(checkpoint.Shm, "shm")
	must(t, d.Seal(&checkpoint.Pod{
		Engine: "runc", Arch: "amd64", Sandbox: json.RawMessage(`{"hostname":"h"}`),
		Containers: []checkpoint.Container{{Name: "one", ImageID: "sha256:1", Stdin: true}, {Name: "two", ImageID: "sha256:2"}},
	}))
}

// open opens it until the test ends.
func open(t *testing.T, dir string) *checkpoint.Saved {
	t.Helper()
	saved, err := checkpoint.Open(dir)
	must(t, err)
	t.Cleanup(func() { must(t, saved.Close()) })
	return saved
}

func TestRoundTrip(t *testing.T) {
	saved := open(t, written(t))
	if saved.Engine != "runc" || !saved.Containers[0].Stdin || saved.Find("two") != 1 || saved.Find("three") != -1 || !saved.Has(checkpoint.Shm) {
		t.Errorf("the description is %+v", saved.Pod)
	}
	doc, err := saved.Spec(1)
	must(t, err)
	if doc.Process.Args[0] != "x" {
		t.Errorf("the spec is %+v", doc)
	}
	to := filepath.Join(t.TempDir(), "images")
	must(t, saved.CopyImages(t.Context(), 1, to))
	if text, err := os.ReadFile(to + "/pages-1.img"); err != nil || string(text) != "memory" {
		t.Errorf("the copy is %q, %v", text, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := saved.CopyImages(ctx, 0, to+"2"); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
}

// describe changes the description by text.
func describe(t *testing.T, dir, old, now string) {
	t.Helper()
	file := filepath.Join(dir, "pod.json")
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", text, old)
	}
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, now, 1)), 0o600))
}

// TestOpenRefuses: what is damaged, or made by somebody else, is refused by what is
// wrong with it.
func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		kind  fault.Kind
		says  string
	}{
		"nothing":         {func(t *testing.T, dir string) { must(t, os.Remove(dir+"/pod.json")) }, fault.Invalid, "pod.json is not there"},
		"no JSON":         {func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/pod.json", []byte("{"), 0o600)) }, fault.Invalid, "pod.json"},
		"a later version": {func(t *testing.T, dir string) { describe(t, dir, `"version":1`, `"version":2`) }, fault.FailedPrecondition, "version 2"},
		"no version":      {func(t *testing.T, dir string) { describe(t, dir, `"version":1,`, ``) }, fault.FailedPrecondition, "version 0"},
		"no containers":   {func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/pod.json", []byte(`{"version":1}`), 0o600)) }, fault.Invalid, "0 containers"},
		"a name twice":    {func(t *testing.T, dir string) { describe(t, dir, `"two"`, `"one"`) }, fault.Invalid, "twice"},
		"no name":         {func(t *testing.T, dir string) { describe(t, dir, `"two"`, `""`) }, fault.Invalid, "no name"},
		"no image":        {func(t *testing.T, dir string) { describe(t, dir, `"sha256:2"`, `""`) }, fault.Invalid, "no name or image"},
		"a missing file":  {func(t *testing.T, dir string) { must(t, os.Remove(dir+"/"+checkpoint.Changes(0))) }, fault.Invalid, "rootfs.tar"},
		"a cut file":      {func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/"+checkpoint.Images(1)+"/pages-1.img", 3)) }, fault.Invalid, "has 3 bytes"},
		"a file too many": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/"+checkpoint.Images(1)+"/extra", nil, 0o600))
		}, fault.Invalid, "extra"},
		"a size below zero": {func(t *testing.T, dir string) { describe(t, dir, `"shm.tar":3`, `"shm.tar":-3`) }, fault.Invalid, "-3"},
		"an absurd size":    {func(t *testing.T, dir string) { describe(t, dir, `"shm.tar":3`, `"shm.tar":9000000000000000000`) }, fault.Invalid, "damaged"},
		"a path upwards":    {func(t *testing.T, dir string) { describe(t, dir, `"shm.tar":3`, `"../shm.tar":3`) }, fault.Invalid, "../shm.tar"},
		"a path that climbs": {func(t *testing.T, dir string) {
			describe(t, dir, `"containers/0/images/pages-1.img"`, `"containers/0/images/.."`)
		}, fault.Invalid, "no file of a checkpoint"},
		"an absolute path": {func(t *testing.T, dir string) { describe(t, dir, `"shm.tar":3`, `"/etc/passwd":3`) }, fault.Invalid, "/etc/passwd"},
		"another container's": {func(t *testing.T, dir string) {
			describe(t, dir, `"containers/1/spec.json"`, `"containers/2/spec.json"`)
		}, fault.Invalid, "containers/2"},
		"a link for a file": {func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/shm.tar"), os.Symlink("/etc/passwd", dir+"/shm.tar"))
		}, fault.Invalid, "neither a file nor a directory"},
		"a link for a directory": {func(t *testing.T, dir string) {
			must(t, os.Rename(dir+"/containers", dir+"/elsewhere"), os.Symlink("elsewhere", dir+"/containers"))
		}, fault.Invalid, "neither a file nor a directory"},
		"a link for the description": {func(t *testing.T, dir string) {
			must(t, os.Rename(dir+"/pod.json", dir+"/x"), os.Symlink("x", dir+"/pod.json"))
		}, fault.Invalid, "is a link"},
		"a pipe for the description": {func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/pod.json"), unix.Mkfifo(dir+"/pod.json", 0o600))
		}, fault.Invalid, "neither a file nor a directory"},
		"a directory for the description": {func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/pod.json"), os.Mkdir(dir+"/pod.json", 0o700))
		}, fault.Invalid, "no regular file"},
		"an endless description":   {func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/pod.json", 1<<40)) }, fault.Invalid, "more than"},
		"a directory for everyone": {func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777)) }, fault.Invalid, "root alone"},
		"a file for a group":       {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/"+checkpoint.Images(0)+"/pages-1.img", 0o660)) }, fault.Invalid, "root alone"},
		"somebody's file":          {func(t *testing.T, dir string) { must(t, os.Lchown(dir+"/shm.tar", 1000, 0)) }, fault.Invalid, "belongs to user 1000"},
		"somebody's directory":     {func(t *testing.T, dir string) { must(t, os.Lchown(dir, 1000, 0)) }, fault.Invalid, "belongs to user 1000"},
	} {
		dir := written(t)
		c.spoil(t, dir)
		_, err := checkpoint.Open(dir)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v that says %q", name, err, c.kind, c.says)
		}
	}
}

// TestReadsWhatItSaw: what changes after Open is found out, and no link is followed.
func TestReadsWhatItSaw(t *testing.T) {
	dir := written(t)
	saved := open(t, dir)
	image := dir + "/" + checkpoint.Images(0) + "/pages-1.img"
	must(t, os.Truncate(image, 2))
	if err := saved.CopyImages(t.Context(), 0, t.TempDir()+"/a"); !errors.Is(err, fault.Invalid) {
		t.Errorf("of a file that has shrunk: %v", err)
	}
	must(t, os.Remove(image), os.Symlink("/etc/passwd", image))
	if err := saved.CopyImages(t.Context(), 0, t.TempDir()+"/b"); !errors.Is(err, fault.Invalid) {
		t.Errorf("of a link: %v", err)
	}
	must(t, os.WriteFile(dir+"/"+checkpoint.Spec(0), []byte(`{"ociVersion":"1.0.2"}`), 0o600))
	if _, err := saved.Spec(0); !errors.Is(err, fault.Invalid) {
		t.Errorf("of a spec with nothing in it: %v", err)
	}
}

// TestSealRefuses: what could not be read is not written either.
func TestSealRefuses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	if _, err := checkpoint.Prepare(dir, 1); !errors.Is(err, fault.Invalid) {
		t.Errorf("Prepare of a directory for everyone: %v", err)
	}
	must(t, os.Chmod(dir, 0o700))
	d, err := checkpoint.Prepare(dir, 1)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	if _, err := checkpoint.Prepare(dir, 1); !errors.Is(err, fault.Invalid) {
		t.Errorf("Prepare of a directory with something in it: %v", err)
	}
	if _, err := d.Create("../outside"); err == nil {
		t.Error("a file outside was made")
	}
	one := &checkpoint.Pod{Containers: []checkpoint.Container{{Name: "one", ImageID: "i"}}}
	if err := d.Seal(one); !errors.Is(err, fault.Invalid) {
		t.Errorf("Seal without files: %v", err)
	}
	if _, err := os.Stat(dir + "/pod.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the description is there: %v", err)
	}
}

// TestStaysWhereItWas: a link that is put into the place of the directory, or of one
// above it, leads nobody elsewhere.
func TestStaysWhereItWas(t *testing.T) {
	testenv.Require(t, testenv.Root)
	top, outside := t.TempDir(), t.TempDir()
	dir := filepath.Join(top, "above", "dir")
	must(t, os.MkdirAll(dir, 0o700), os.MkdirAll(filepath.Join(outside, "dir"), 0o700))
	swap := func() { must(t, os.Rename(top+"/above", top+"/moved"), os.Symlink(outside, top+"/above")) }
	write(t, dir, swap)
	if left, err := os.ReadDir(outside + "/dir"); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
	must(t, os.Remove(top+"/above"), os.Rename(top+"/moved", top+"/above"))
	saved := open(t, dir)
	swap()
	if _, err := saved.Spec(0); err != nil {
		t.Errorf("the spec: %v", err)
	}
	must(t, saved.CopyImages(t.Context(), 1, t.TempDir()+"/images"))
}
