package changeset_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/changeset"
	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/overlay"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// enough for every test.
var enough = layer.Limits{Bytes: 1 << 30, Entries: 1000}

// overlayOf mounts an overlay over a directory and returns where, and its upper one.
func overlayOf(t *testing.T, lower string) (root, upper string) {
	t.Helper()
	dir := t.TempDir()
	o := overlay.Options{Target: dir + "/root", Upper: dir + "/upper", Work: dir + "/work", Lower: []string{lower}}
	must(t, os.Mkdir(o.Target, 0o755), os.Mkdir(o.Upper, 0o755), os.Mkdir(o.Work, 0o755), overlay.Mount(o))
	t.Cleanup(func() { must(t, overlay.Unmount(o.Target)) })
	return o.Target, o.Upper
}

// TestApply: a root file system has what another one of the same image was changed to.
func TestApply(t *testing.T) {
	testenv.Require(t, testenv.Root)
	lower := t.TempDir()
	at := func(name string) string { return filepath.Join(lower, name) }
	must(t,
		os.WriteFile(at("kept"), []byte("kept"), 0o644), os.WriteFile(at("gone"), nil, 0o644), os.WriteFile(at("changed"), []byte("old"), 0o644),
		os.Mkdir(at("replaced"), 0o755), os.WriteFile(at("replaced/old"), nil, 0o644),
	)
	first, upper := overlayOf(t, lower)
	in := func(name string) string { return filepath.Join(first, name) }
	must(t,
		os.Remove(in("gone")), os.WriteFile(in("changed"), []byte("new"), 0o644), os.Chmod(in("kept"), 0o600),
		os.RemoveAll(in("replaced")), os.Mkdir(in("replaced"), 0o700), os.WriteFile(in("replaced/new"), []byte("n"), 0o640), os.Lchown(in("replaced/new"), 7, 8),
		os.Symlink("/outside", in("link")), unix.Mkfifo(in("pipe"), 0o600), unix.Lsetxattr(in("changed"), "user.color", []byte("red"), 0),
		unix.Mknod(in("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))),
	)
	var saved bytes.Buffer
	must(t, changeset.Write(t.Context(), &saved, upper))
	second, _ := overlayOf(t, lower)
	must(t, changeset.Apply(t.Context(), bytes.NewReader(saved.Bytes()), second, enough))
	want := written(t, first)
	if d := cmp.Diff(want, written(t, second)); d != "" {
		t.Error(d)
	}
	var st unix.Stat_t
	if err := unix.Stat(second+"/replaced/new", &st); err != nil || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("the owner of a file is %d:%d, %v", st.Uid, st.Gid, err)
	}
}

// tarOf makes a tar file that nobody has to have written in this way.
func tarOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		h.Mode = 0o644
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			_, err := w.Write(make([]byte, h.Size))
			must(t, err)
		}
	}
	must(t, w.Close())
	return out.Bytes()
}

// TestApplyStaysInside: whatever the file says, nothing outside of the root changes.
func TestApplyStaysInside(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, headers := range map[string][]*tar.Header{
		"a name with dots":       {{Typeflag: tar.TypeReg, Name: "../outside/file", Size: 1}},
		"a whiteout with dots":   {{Typeflag: tar.TypeReg, Name: "../outside/.wh.secret"}},
		"a whiteout of dots":     {{Typeflag: tar.TypeReg, Name: ".wh..."}},
		"an absolute name":       {{Typeflag: tar.TypeReg, Name: "/../../outside/file", Size: 1}},
		"a link as a directory":  {{Typeflag: tar.TypeSymlink, Name: "d", Linkname: "../outside"}, {Typeflag: tar.TypeReg, Name: "d/file", Size: 1}},
		"an opaque link":         {{Typeflag: tar.TypeSymlink, Name: "d", Linkname: "../outside"}, {Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"}},
		"a hard link to outside": {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside/secret"}, {Typeflag: tar.TypeReg, Name: "h", Size: 1}},
	} {
		dir := t.TempDir()
		must(t, os.Mkdir(dir+"/root", 0o755), os.Mkdir(dir+"/outside", 0o755), os.WriteFile(dir+"/outside/secret", []byte("secret"), 0o600))
		err := changeset.Apply(t.Context(), bytes.NewReader(tarOf(t, headers...)), dir+"/root", enough) // it may refuse, or put it inside
		entries, rerr := os.ReadDir(dir + "/outside")
		must(t, rerr)
		secret, rerr := os.ReadFile(dir + "/outside/secret")
		if rerr != nil || len(entries) != 1 || string(secret) != "secret" {
			t.Errorf("%s (%v): outside there is %v, %q", name, err, entries, secret)
		}
	}
}

// TestApplyIsBounded: what is larger than it may be, or damaged, is refused as that.
func TestApplyIsBounded(t *testing.T) {
	testenv.Require(t, testenv.Root)
	file := func(name string, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size}
	}
	whole := tarOf(t, file("a", 600), file("b", 600))
	for name, c := range map[string]struct {
		text   []byte
		limits layer.Limits
	}{
		"bytes":       {whole, layer.Limits{Bytes: 1000, Entries: 10}},
		"entries":     {whole, layer.Limits{Bytes: 10000, Entries: 1}},
		"a cut one":   {whole[:700], enough},
		"a wrong one": {bytes.Repeat([]byte("no tar file "), 100), enough},
	} {
		err := changeset.Apply(t.Context(), bytes.NewReader(c.text), t.TempDir(), c.limits)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := changeset.Apply(ctx, bytes.NewReader(whole), t.TempDir(), enough); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
}

// TestApplyLeavesOverlayAlone: the file cannot lead lookups of the overlay elsewhere.
func TestApplyLeavesOverlayAlone(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := t.TempDir()
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "d", Format: tar.FormatPAX, PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.user.color": "red",
	}}
	must(t, changeset.Apply(t.Context(), bytes.NewReader(tarOf(t, h)), root, enough))
	names := make([]byte, 1000)
	n, err := unix.Llistxattr(root+"/d", names)
	if err != nil || string(names[:n]) != "user.color\x00" {
		t.Errorf("the attributes are %q, %v", names[:n], err)
	}
}
