package oci

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// apartRuntime is one with a run directory, on a mount that is shared if that is set.
func apartRuntime(t *testing.T, shared bool) *Runtime {
	t.Helper()
	testenv.Require(t, testenv.Root)
	above := t.TempDir()
	if err := unix.Mount("above", above, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.DetachTree(above) })
	r := &Runtime{cfg: Config{RunDir: filepath.Join(above, "run"), Logger: slog.New(slog.DiscardHandler)}}
	err := os.MkdirAll(r.sandboxDir(""), 0o700)
	if err == nil {
		err = r.own(t.TempDir(), r.cfg.RunDir)
	}
	t.Cleanup(func() {
		for _, l := range r.locks {
			l.Release()
		}
	})
	if shared {
		err = errors.Join(err, unix.Mount("", above, "", unix.MS_SHARED, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantPoints(t *testing.T, r *Runtime, want int) {
	t.Helper()
	points, err := mount.Below(r.cfg.RunDir)
	if err != nil || len(points) != want {
		t.Errorf("mounts: %q, %v; want %d", points, err, want)
	}
}

// TestKeepApart: the mounts are made once, also by a server that finds those of another
// one, or a part of them, and go when there is no sandbox.
func TestKeepApart(t *testing.T) {
	for name, shared := range map[string]bool{"below a shared mount": true, "below a private mount": false} {
		t.Run(name, func(t *testing.T) {
			r := apartRuntime(t, shared)
			dir := r.sandboxDir("")
			if err := errors.Join(cover(r.cfg.RunDir, unix.MS_SHARED), cover(dir, unix.MS_UNBINDABLE)); err != nil { // and then it died
				t.Fatal(err)
			}
			for range 2 {
				if r.keepApart(); !r.apart {
					t.Fatal("they are not made")
				}
				wantPoints(t, r, 3)
			}
			if err := mount.Bind(dir, dir, nil); err != nil {
				t.Errorf("the upper one cannot be bound: %v", err)
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
			elsewhere := t.TempDir()
			if err := mount.Bind(r.cfg.RunDir, elsewhere, &mount.BindOptions{Recursive: true}); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = mount.DetachTree(elsewhere) }()
			if points, err := mount.Below(elsewhere); err != nil || len(points) != 1 {
				t.Errorf("a copy has %q, %v", points, err)
			}
			if err := os.Mkdir(r.sandboxDir("s"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := r.endApart(); err != nil {
				t.Error(err)
			}
			wantPoints(t, r, 3)
			if err := os.Remove(r.sandboxDir("s")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := r.endApart(); err != nil {
					t.Error(err)
				}
				wantPoints(t, r, 0)
			}
		})
	}
}

// TestKeepApartFromEarlierVersion: the mounts of sandboxes that an earlier version has made
// are not hidden.
func TestKeepApartFromEarlierVersion(t *testing.T) {
	r := apartRuntime(t, false)
	pin := r.sandboxDir("s")
	if err := errors.Join(os.Mkdir(pin, 0o700), mount.Tmpfs(pin, nil)); err != nil {
		t.Fatal(err)
	}
	if err := makeApart(r.cfg.RunDir); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("got %v", err)
	}
	if r.keepApart(); r.apart || r.viewFor(nil, nil) != nil {
		t.Error("the OCI runtime is to see something else than all mounts")
	}
	wantPoints(t, r, 1)
}

// TestReaches: directories above and below each other, also through symbolic links.
func TestReaches(t *testing.T) {
	dir := t.TempDir()
	a, link := filepath.Join(dir, "a"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(a, "b"), 0o700), os.Symlink(a, link)); err != nil {
		t.Fatal(err)
	}
	for other, want := range map[string]bool{
		a: true, a + "/b": true, dir: true, "/": true, link: true, link + "/b": true, a + "/..": true, a + "/missing": true,
		a + "b": false, dir + "/c": false, "/proc": false,
	} {
		if reaches(other, a) != want {
			t.Errorf("%q and %q: want %t", other, a, want)
		}
	}
}

// TestKeepApartKilledEarly: one mount of the directory of sandboxes is not both, although it
// is shared until it becomes unbindable.
func TestKeepApartKilledEarly(t *testing.T) {
	r := apartRuntime(t, true)
	if err := errors.Join(cover(r.cfg.RunDir, unix.MS_SHARED), cover(r.sandboxDir(""), unix.MS_SHARED)); err != nil {
		t.Fatal(err)
	}
	if r.keepApart(); !r.apart {
		t.Fatal("they are not made")
	}
	wantPoints(t, r, 3)
}

// TestKeepApartBehindALink: the run directory may be a symbolic link, which is not mounted on.
func TestKeepApartBehindALink(t *testing.T) {
	r := apartRuntime(t, true)
	real := r.cfg.RunDir
	r.cfg.RunDir = filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, r.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if r.keepApart(); !r.apart {
		t.Fatal("they are not made")
	}
	if points, err := mount.Below(real); err != nil || len(points) != 3 {
		t.Errorf("mounts: %q, %v", points, err)
	}
	if err := r.endApart(); err != nil {
		t.Error(err)
	}
	if points, err := mount.Below(filepath.Dir(r.cfg.RunDir)); err != nil || len(points) != 0 {
		t.Errorf("left: %q, %v", points, err)
	}
	if points, err := mount.Below(real); err != nil || len(points) != 0 {
		t.Errorf("left: %q, %v", points, err)
	}
}

// TestEndApartLeavesOthers: what somebody else has mounted below the run directory stays.
func TestEndApartLeavesOthers(t *testing.T) {
	r := apartRuntime(t, true)
	if r.keepApart(); !r.apart {
		t.Fatal("they are not made")
	}
	other := r.run("other")
	if err := errors.Join(os.Mkdir(other, 0o700), mount.Tmpfs(other, nil)); err != nil {
		t.Fatal(err)
	}
	if err := r.endApart(); err != nil {
		t.Error(err)
	}
	if at, err := mount.At(other); err != nil || at == nil {
		t.Errorf("it is gone: %v", err)
	}
}

// TestPathsIn: what an OCI runtime opens on the host.
func TestPathsIn(t *testing.T) {
	doc := &specs.Spec{
		Mounts: []specs.Mount{{Type: "proc", Source: "proc"}, {Type: "bind", Source: "/volume"}},
		Hooks:  &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}, Poststart: []specs.Hook{{Path: "/after"}}},
	}
	if got := pathsIn(doc); !slices.Equal(got, []string{"/volume", "/hook", "/after"}) {
		t.Errorf("got %q", got)
	}
	if got := pathsIn(&specs.Spec{}); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}

// TestViewFor: a container that is given the run directory sees everything, and another one
// its own sandbox.
func TestViewFor(t *testing.T) {
	r := &Runtime{cfg: Config{RunDir: t.TempDir()}, apart: true}
	s := &cri.Sandbox{ID: "s", Dir: "/state/s"}
	own := r.sandboxDir("s")
	for source, want := range map[string]bool{
		"/proc": true, s.Dir + "/hosts": true, own + "/shm": true, own: true,
		"/": false, filepath.Dir(r.cfg.RunDir): false, r.cfg.RunDir: false, r.sandboxDir("other"): false, r.sandboxDir("") + "/../exec": false,
	} {
		v := r.viewFor(s, &specs.Spec{Mounts: []specs.Mount{{Type: "bind", Source: source}}})
		if (v != nil) != want {
			t.Errorf("with %q: %+v", source, v)
		}
		if v != nil && (!slices.Equal(v.Mounts, []string{own}) || v.Above != r.cfg.RunDir || !slices.Equal(v.Paths, []string{source})) {
			t.Errorf("with %q: %+v", source, v)
		}
	}
}
