package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestParse(t *testing.T) {
	in := `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
36 22 8:1 /a\040b /mnt/x\134y ro,noexec master:1 - ext4 /dev/vda1 rw,errors=continue
37 22 0:40 / /t rw - tmpfs tmpfs ro,size=4k
`
	got, err := mount.Parse(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []mount.Mount{
		{ID: 22, Parent: 1, Root: "/", Point: "/", Options: []string{"rw", "relatime"}, Shared: true, Type: "ext4", Source: "/dev/vda1"},
		{ID: 36, Parent: 22, Root: "/a b", Point: `/mnt/x\y`, ReadOnly: true, Slave: true, Options: []string{"ro", "noexec"}, Type: "ext4", Source: "/dev/vda1"},
		{ID: 37, Parent: 22, Root: "/", Point: "/t", SuperReadOnly: true, Options: []string{"rw"}, Type: "tmpfs", Source: "tmpfs"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`36 22 8:1 /a\040b /mnt/x\134y ro,noexec master:1 - ext4 /dev/vda1 rw`)
	f.Add(`1 2 - `)
	f.Fuzz(func(_ *testing.T, in string) { _, _ = mount.Parse(strings.NewReader(in)) })
}

// dirs returns a directory of the test's own whose mounts are taken away after it.
func dirs(t *testing.T, names ...string) (root string) {
	t.Helper()
	testenv.Require(t, testenv.Root)
	root = t.TempDir()
	t.Cleanup(func() {
		if err := mount.DetachTree(root); err != nil {
			t.Error(err)
		}
	})
	for _, n := range names {
		if err := os.Mkdir(filepath.Join(root, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBind(t *testing.T) {
	root := dirs(t, "src", "dst dir", "ro")
	src, dst, ro := filepath.Join(root, "src"), filepath.Join(root, "dst dir"), filepath.Join(root, "ro")
	if err := mount.Bind(src, dst, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dst, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(src, ro, &mount.BindOptions{ReadOnly: true, NoExec: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(ro, "f")); err != nil || string(b) != "x" {
		t.Errorf("reading through the mount: %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(ro, "g"), nil, 0o600); err == nil {
		t.Error("a read-only mount took a write")
	}
	for _, c := range []struct {
		target string
		ro     bool
	}{{dst, false}, {ro, true}} {
		if is, isRO, err := mount.IsBind(src, c.target); !is || isRO != c.ro || err != nil {
			t.Errorf("IsBind(%q) = %v, %v, %v", c.target, is, isRO, err)
		}
	}
	if is, _, err := mount.IsBind(root, dst); is || err != nil {
		t.Errorf("IsBind of another source = %v, %v", is, err)
	}
	if err := mount.RemoveAll(root); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("RemoveAll over mounts: %v", err)
	}
	if err := mount.DetachTree(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(src, "f")); err != nil {
		t.Errorf("the source lost its file: %v", err)
	}
}

func TestUnmountIsIdempotentAndTakesStacks(t *testing.T) {
	root := dirs(t, "src", "dst")
	src, dst := filepath.Join(root, "src"), filepath.Join(root, "dst")
	for range 3 {
		if err := mount.Bind(src, dst, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := mount.Unmount(dst); err != nil {
			t.Fatal(err)
		}
		if on, err := mount.IsMountPoint(dst); on || err != nil {
			t.Fatalf("IsMountPoint = %v, %v", on, err)
		}
	}
	if err := mount.Unmount(filepath.Join(root, "never", "was")); err != nil {
		t.Error(err)
	}
}

func TestUnmountOfABusyMount(t *testing.T) {
	root := dirs(t, "t")
	dst := filepath.Join(root, "t")
	if err := mount.Tmpfs(dst, &mount.TmpfsOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dst, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := mount.Unmount(dst); err == nil {
		t.Fatal("a busy mount was unmounted")
	}
	if err := mount.Detach(dst); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("still there"); err != nil {
		t.Error(err)
	}
}

func TestTmpfsHasItsSizeAndMode(t *testing.T) {
	root := dirs(t, "t")
	dst := filepath.Join(root, "t")
	if err := mount.Tmpfs(dst, &mount.TmpfsOptions{Size: 1 << 20, Mode: 0o700}); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(dst)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dst, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MiB fitted into a tmpfs of 1 MiB")
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	root := dirs(t, "src", "victim")
	link := filepath.Join(root, "link")
	if err := os.Symlink(filepath.Join(root, "victim"), link); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(filepath.Join(root, "src"), link, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("binding at a link: %v", err)
	}
}

func TestMakeShared(t *testing.T) {
	root := dirs(t, "r")
	r := filepath.Join(root, "r")
	for range 2 {
		if err := mount.MakeShared(r); err != nil {
			t.Fatal(err)
		}
	}
	m, err := mount.At(r)
	if err != nil || m == nil || !m.Shared {
		t.Errorf("At = %+v, %v", m, err)
	}
	points, err := mount.Below(r)
	if err != nil || len(points) != 1 {
		t.Errorf("making it shared twice left %v, %v", points, err)
	}
}

// TestUndoShared: what MakeShared has mounted goes, and what was mounted before stays.
func TestUndoShared(t *testing.T) {
	for _, before := range []string{"nothing", "a file system", "another directory"} {
		t.Run(before, func(t *testing.T) {
			root := dirs(t, "r", "other")
			r, want := filepath.Join(root, "r"), 1
			switch before {
			case "nothing":
				want = 0
			case "a file system":
				must(t, mount.Tmpfs(r, nil))
			default:
				must(t, mount.Bind(filepath.Join(root, "other"), r, nil))
			}
			below := filepath.Join(r, "below")
			must(t, os.Mkdir(below, 0o755))
			must(t, mount.MakeShared(r))
			must(t, mount.Tmpfs(below, nil))
			for range 2 {
				if err := mount.UndoShared(r); err != nil {
					t.Fatal(err)
				}
				if points, err := mount.Below(r); err != nil || len(points) != want {
					t.Errorf("there are the mounts %q (%v), want %d", points, err, want)
				}
			}
		})
	}
}

// TestRemoveAllKeepsWhatIsMounted: nothing is removed while something is mounted
// anywhere below, on a directory or a file, in few files or in many.
func TestRemoveAllKeepsWhatIsMounted(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for what, files := range map[string]int{"few": 1, "many": 1000} {
		for _, point := range []string{"", "a", "a/b/file"} {
			t.Run(what+" "+point, func(t *testing.T) {
				base := t.TempDir()
				dir, volume := filepath.Join(base, "dir"), filepath.Join(base, "volume")
				must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
				must(t, os.MkdirAll(volume, 0o700))
				must(t, os.WriteFile(filepath.Join(volume, "data"), nil, 0o600))
				for i := range files {
					must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
				}
				target, source := filepath.Join(dir, point), volume
				if point == "a/b/file" {
					source = filepath.Join(volume, "data")
					must(t, os.WriteFile(target, nil, 0o600))
				}
				must(t, mount.Bind(source, target, nil))
				t.Cleanup(func() { must(t, mount.DetachTree(dir)) })
				if err := mount.RemoveAll(dir); !errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), target) {
					t.Errorf("removing below %q: %v", target, err)
				}
				must(t, mount.DetachTree(dir))
				for _, kept := range []string{filepath.Join(dir, "0"), filepath.Join(volume, "data")} {
					if _, err := os.Lstat(kept); err != nil {
						t.Error(err)
					}
				}
				must(t, mount.RemoveAll(dir))
				if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%q is still there: %v", dir, err)
				}
				must(t, mount.RemoveAll(dir)) // and again
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
