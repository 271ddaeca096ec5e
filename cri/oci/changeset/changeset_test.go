package changeset_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/changeset"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/overlay"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// entries returns what is in a tar file: kind, mode, name, content and target.
func entries(t *testing.T, text []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %o %s %q%s", h.Typeflag, h.Mode, h.Name, content, h.Linkname)
		if x := h.PAXRecords["SCHILY.xattr.user.color"]; x != "" {
			line += " " + x
		}
		all = append(all, line)
	}
}

func written(t *testing.T, dir string) []string {
	t.Helper()
	var out bytes.Buffer
	if err := changeset.Write(t.Context(), &out, dir); err != nil {
		t.Fatal(err)
	}
	return entries(t, out.Bytes())
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.Mkdir(at("a"), 0o750), unix.Chmod(at("a"), 0o1750),
		os.WriteFile(at("a/file"), []byte("text"), 0o640),
		os.Link(at("a/file"), at("b-link")),
		os.Symlink("/etc/shadow", at("c-symlink")),
		os.Mkdir(at("d-hides"), 0o700), unix.Lsetxattr(at("d-hides"), "trusted.overlay.opaque", []byte("y"), 0),
		os.WriteFile(at("d-hides/x"), nil, 0o600),
		unix.Mknod(at("e-gone"), unix.S_IFCHR, 0), unix.Mknod(at("a/gone"), unix.S_IFCHR, 0),
		unix.Mkfifo(at("f-pipe"), 0o600),
		unix.Mknod(at("g-null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("h-socket"), unix.S_IFSOCK|0o600, 0),
		os.WriteFile(at("i-colored"), nil, 0o600), unix.Lsetxattr(at("i-colored"), "user.color", []byte("red"), 0),
	)
	want := []string{
		`5 1750 a/ ""`, `0 640 a/file "text"`, `0 0 a/.wh.gone ""`, `1 640 b-link ""a/file`, `2 777 c-symlink ""/etc/shadow`,
		`5 700 d-hides/ ""`, `0 0 d-hides/.wh..wh..opq ""`, `0 600 d-hides/x ""`, `0 0 .wh.e-gone ""`,
		`6 600 f-pipe ""`, `3 644 g-null ""`, `0 600 i-colored "" red`,
	}
	if d := cmp.Diff(want, written(t, dir)); d != "" {
		t.Error(d)
	}
}

// TestWriteFollowsNobody: what root in a container puts in the place of a name
// never makes the host's files, or a pipe that nobody writes to, be read.
func TestWriteFollowsNobody(t *testing.T) {
	secret := t.TempDir()
	must(t, os.WriteFile(filepath.Join(secret, "file"), []byte("secret"), 0o600))
	dir, aside := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.WriteFile(at("file"), nil, 0o600), os.Symlink(secret+"/file", aside+"/link"), unix.Mkfifo(aside+"/pipe", 0o600),
		os.Mkdir(at("tree"), 0o755), os.Symlink(secret, aside+"/tree"),
	)
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() { exchange(t, stop, at("file"), aside+"/link", aside+"/pipe") })
	swapping.Go(func() { exchange(t, stop, at("tree"), aside+"/tree") })
	for range 3000 {
		var out bytes.Buffer
		if err := changeset.Write(t.Context(), &out, dir); err != nil {
			t.Error(err)
			break
		}
		if bytes.Contains(out.Bytes(), []byte("secret\x00")) {
			t.Error("the archive has a file from outside")
			break
		}
	}
	close(stop)
	swapping.Wait()
}

// exchange has a name mean one thing after the other, and never nothing.
func exchange(t *testing.T, stop chan struct{}, name string, others ...string) {
	for {
		for _, o := range others {
			if err := unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, o, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

// TestWriteOfAFileThatShrinks: the archive stays one that can be read.
func TestWriteOfAFileThatShrinks(t *testing.T) {
	dir := t.TempDir()
	log, next := filepath.Join(dir, "log"), filepath.Join(dir, "next")
	must(t, os.WriteFile(log, bytes.Repeat([]byte("x"), 1<<20), 0o600), os.WriteFile(next, []byte("next"), 0o600))
	w := &onFirst{do: func() { must(t, os.Truncate(log, 100)) }}
	must(t, changeset.Write(t.Context(), w, dir))
	got := entries(t, w.Bytes())
	if len(got) != 2 || !strings.HasSuffix(got[1], `next "next"`) {
		t.Errorf("%d entries, the last of them %.60s", len(got), got[len(got)-1])
	}
}

// onFirst does something at the first write, which is a header's.
type onFirst struct {
	bytes.Buffer
	do func()
}

func (w *onFirst) Write(p []byte) (int, error) {
	if w.Len() == 0 {
		w.do()
	}
	return w.Buffer.Write(p)
}

func TestWriteEnds(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	if err := changeset.Write(ctx, &onFirst{do: cancel}, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
	deep := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(deep, strings.Join(slices.Repeat([]string{"d"}, 600), "/")), 0o755))
	if err := changeset.Write(t.Context(), io.Discard, deep); !errors.Is(err, fault.Invalid) {
		t.Errorf("of a bottomless tree: %v", err)
	}
	if err := changeset.Write(t.Context(), io.Discard, filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

// TestWriteRefusesWhatIsElsewhere: an overlay that was mounted with other options than
// ours leaves files whose content, or directories whose files, are not in them.
func TestWriteRefusesWhatIsElsewhere(t *testing.T) {
	testenv.Require(t, testenv.Root)
	lower, upper, work, root := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.Mkdir(lower+"/old", 0o755), os.WriteFile(lower+"/old/lost", nil, 0o644), os.WriteFile(lower+"/file", []byte("text"), 0o644))
	must(t, unix.Mount("overlay", root, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work+",redirect_dir=on,metacopy=on"))
	t.Cleanup(func() { must(t, overlay.Unmount(root)) })
	refuses := func(says string) {
		t.Helper()
		err := changeset.Write(t.Context(), io.Discard, upper)
		if !errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want a refusal that says %q", err, says)
		}
	}
	must(t, os.Rename(root+"/old", root+"/new"))
	refuses("new: ")
	must(t, os.RemoveAll(root+"/new"), os.Chmod(root+"/file", 0o600))
	refuses("file: ")
	must(t, os.WriteFile(root+"/file", []byte("whole"), 0o600))
	must(t, changeset.Write(t.Context(), io.Discard, upper))
	must(t, unix.Lsetxattr(upper+"/file", "user.overlay.redirect", []byte("/other"), 0)) // as its owner may
	must(t, changeset.Write(t.Context(), io.Discard, upper))
}
