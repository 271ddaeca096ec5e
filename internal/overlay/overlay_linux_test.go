package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/overlay"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// options makes the directories of a mount below dir.
func options(t *testing.T, dir string) overlay.Options {
	t.Helper()
	testenv.Require(t, testenv.Root)
	o := overlay.Options{
		Target: filepath.Join(dir, "target"), Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Lower: []string{filepath.Join(dir, "low2"), filepath.Join(dir, "low1")}, Volatile: true,
	}
	for _, d := range append(o.Lower, o.Target, o.Upper, o.Work) {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range o.Lower {
		if err := os.WriteFile(filepath.Join(d, "from"), []byte(d), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = overlay.Unmount(o.Target) })
	return o
}

func TestMount(t *testing.T) {
	for name, dir := range map[string]string{
		"plain": t.TempDir(),
		"odd":   filepath.Join(t.TempDir(), `a:b,c\d`),
		"long":  filepath.Join(t.TempDir(), strings.Repeat(strings.Repeat("x", 200)+"/", 12)),
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, dir)
			if mounted, err := overlay.IsMounted(o.Target); mounted || err != nil {
				t.Fatalf("before: IsMounted %v, %v", mounted, err)
			}
			if err := overlay.Mount(o); err != nil {
				t.Fatal(err)
			}
			if mounted, err := overlay.IsMounted(o.Target); !mounted || err != nil {
				t.Errorf("after: IsMounted %v, %v", mounted, err)
			}
			if got, err := os.ReadFile(filepath.Join(o.Target, "from")); err != nil || string(got) != o.Lower[0] {
				t.Errorf("the file comes from %q, %v; want the topmost, %q", got, err, o.Lower[0])
			}
			for range 2 {
				if err := overlay.Unmount(o.Target); err != nil {
					t.Fatal(err)
				}
			}
			if err := overlay.Mount(o); !errors.Is(err, unix.EINVAL) {
				t.Errorf("mounting used volatile directories: %v, want EINVAL", err)
			}
			if err := overlay.Forget(o.Work); err != nil {
				t.Fatal(err)
			}
			if err := overlay.Mount(o); err != nil {
				t.Errorf("mounting after Forget: %v", err)
			}
		})
	}
}

func TestMountTooMany(t *testing.T) {
	o := options(t, t.TempDir())
	for len(o.Lower) <= 500 {
		o.Lower = append(o.Lower, o.Lower[0])
	}
	if err := overlay.Mount(o); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("Mount: %v, want fault.FailedPrecondition", err)
	}
}

func TestIsMountedOfNothing(t *testing.T) {
	if mounted, err := overlay.IsMounted(filepath.Join(t.TempDir(), "none")); mounted || err != nil {
		t.Errorf("IsMounted: %v, %v", mounted, err)
	}
}

// TestMountFollowsNoRedirect: a directory that says that it is another one, whatever the
// kernel's defaults are, and renames that would make such a one.
func TestMountFollowsNoRedirect(t *testing.T) {
	o := options(t, t.TempDir())
	low, up := o.Lower[0], o.Upper
	for _, err := range []error{
		os.Mkdir(filepath.Join(low, "elsewhere"), 0o755), os.WriteFile(filepath.Join(low, "elsewhere", "file"), nil, 0o600), os.Mkdir(filepath.Join(low, "old"), 0o755),
		os.Mkdir(filepath.Join(up, "redirected"), 0o755), unix.Lsetxattr(filepath.Join(up, "redirected"), "trusted.overlay.redirect", []byte("/elsewhere"), 0),
		overlay.Mount(o),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Target, "redirected", "file")); err == nil {
		t.Error("a redirect is followed")
	}
	if err := unix.Rename(filepath.Join(o.Target, "old"), filepath.Join(o.Target, "new")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("renaming a directory of a lower layer: %v, want EXDEV", err)
	}
}
