package image_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestWhiteoutsAreAboutTheLayersBelow: what a layer itself has under a name that it says
// is gone is there, in whatever order the two stand, and nothing of what is below.
func TestWhiteoutsAreAboutTheLayersBelow(t *testing.T) {
	below := []entry{dir("foo", 0o700), file("foo/old", "1"), dir("foo/sub", 0o700), file("f", "1")}
	link := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeSymlink} }
	old := []string{"foo 700", "foo/old 1", "foo/sub 700"}
	for name, c := range map[string]struct {
		layer []entry
		want  []string
	}{
		"before a directory":      {[]entry{file(".wh.foo", ""), dir("foo", 0o711), file("foo/new", "2")}, []string{"f 1", "foo 711", "foo/new 2"}},
		"before what implies it":  {[]entry{file(".wh.foo", ""), file("foo/sub/new", "2")}, []string{"f 1", "foo 755", "foo/sub 755", "foo/sub/new 2"}},
		"after a directory":       {[]entry{dir("foo", 0o711), file("foo/new", "2"), file(".wh.foo", "")}, []string{"f 1", "foo 711", "foo/new 2"}},
		"after what implies it":   {[]entry{file("foo/new", "2"), file(".wh.foo", "")}, []string{"f 1", "foo 755", "foo/new 2"}},
		"before a file":           {[]entry{file(".wh.f", ""), file("f", "2")}, slices.Concat([]string{"f 2"}, old)},
		"after a file":            {[]entry{file("f", "2"), file(".wh.f", "")}, slices.Concat([]string{"f 2"}, old)},
		"twice":                   {[]entry{file(".wh.f", ""), file(".wh.f", ""), file(".wh.foo", "")}, nil},
		"in an opaque directory":  {[]entry{file("foo/.wh.old", ""), file("foo/.wh..wh..opq", ""), file("foo/new", "2")}, []string{"f 1", "foo 700", "foo/new 2"}},
		"in one that is gone":     {[]entry{file(".wh.foo", ""), file("foo/.wh.old", "")}, []string{"f 1", "foo 755"}},
		"then a link in its way":  {[]entry{file("d/.wh.old", ""), link("d", "foo")}, slices.Concat([]string{"d -> foo", "f 1"}, old)},
		"then a link leading out": {[]entry{file("d/.wh.x", ""), link("d", "/mnt")}, slices.Concat([]string{"d -> /mnt", "f 1"}, old)},
		"of all":                  {[]entry{file(".wh..wh..opq", ""), file("new", "2")}, []string{"new 2"}},
		"of all, after a file":    {[]entry{file("new", "2"), file(".wh..wh..opq", "")}, []string{"new 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := loaded(t, nil, layerOf(t, below...), layerOf(t, c.layer...))
			root := mounted(t, s, testName, t.TempDir()).Path
			if got := seenBelow(t, root); !slices.Equal(got, c.want) {
				t.Errorf("there is %q, want %q", got, c.want)
			}
			wantGone(t, "/mnt/x")
		})
	}
}

// seenBelow lists what a program in root sees: names with the modes of directories, the
// content of files and the targets of links. A name that is listed and not there is an
// error.
func seenBelow(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		has := fmt.Sprintf("%o", fi.Mode().Perm())
		switch fi.Mode().Type() {
		case 0:
			var content []byte
			content, err = os.ReadFile(path)
			has = string(content)
		case fs.ModeSymlink:
			has, err = os.Readlink(path)
			has = "-> " + has
		}
		all = append(all, path[len(root)+1:]+" "+has)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

// TestWhiteoutKeepsTimes: a directory's time is what the layer says, also when something
// in it is gone.
func TestWhiteoutKeepsTimes(t *testing.T) {
	s := loaded(t, nil, layerOf(t, file("d/gone", "")), layerOf(t, file("d/.wh.gone", ""), dir("d", 0o755)))
	fi, err := os.Stat(filepath.Join(mounted(t, s, testName, t.TempDir()).Path, "d"))
	if err != nil || !fi.ModTime().Equal(time.Unix(0, 0)) {
		t.Errorf("d: %v, modified %v; want the time in the layer", err, fi.ModTime())
	}
}

// TestWhiteoutOfNothing: a mark whose name is that of a directory itself, or of the one above,
// is none of a file in the directory.
func TestWhiteoutOfNothing(t *testing.T) {
	for _, name := range []string{".wh.", ".wh..", ".wh...", "foo/.wh.", "foo/.wh..", "foo/.wh..."} {
		s := open(t, t.TempDir(), nil)
		layer := layerOf(t, dir("foo", 0o700), file("foo/new", "2"), file(name, ""))
		_, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layer)}))
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "whiteout") {
			t.Errorf("%q: %v, want fault.Invalid that names the whiteout", name, err)
		}
	}
}
