package image_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/image"
)

// userNS returns a user namespace whose root the host numbers 300000.
func userNS(t *testing.T) image.View {
	t.Helper()
	const host = 300000
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: unix.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: host, Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{HostID: host, Size: 65536}},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return image.View{UserNS: "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user", RootUID: host, RootGID: host}
}

// TestViews: each shows the same files, with the owners and the access that it
// has; none leaves anything.
func TestViews(t *testing.T) {
	s := loaded(t, nil, layerOf(t, file("a", "below")), layerOf(t, file("b", "above")))
	mapped := userNS(t)
	reading := mapped
	reading.ReadOnly = true
	for name, v := range map[string]image.View{"plain": {}, "read-only": {ReadOnly: true}, "mapped": mapped, "mapped, read-only": reading} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for range 2 {
				fs, err := s.Mount(t.Context(), testName, dir, v)
				if err != nil {
					t.Fatal(err)
				}
				wantFile(t, filepath.Join(fs.Path, "a"), "below")
				wantFile(t, filepath.Join(fs.Path, "b"), "above")
				var st unix.Stat_t
				for _, path := range []string{"a", "."} {
					if err := unix.Stat(filepath.Join(fs.Path, path), &st); err != nil || int(st.Uid) != v.RootUID || int(st.Gid) != v.RootGID {
						t.Errorf("%s belongs to %d:%d (%v), want %d", path, st.Uid, st.Gid, err, v.RootUID)
					}
				}
				if err := os.WriteFile(filepath.Join(fs.Path, "new"), nil, 0o600); (err == nil) == v.ReadOnly {
					t.Errorf("writing: %v", err)
				}
			}
			if err := s.ReleaseRootfs(dir); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestMappedAfterCrash: the mounts of layers that a kill left are taken away,
// by the next mount and by the release.
func TestMappedAfterCrash(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", "below"))), t.TempDir()
	v := userNS(t)
	if _, err := s.Mount(t.Context(), testName, dir, v); err != nil {
		t.Fatal(err)
	}
	crash := func() {
		left := filepath.Join(dir, "mapped", "0")
		if err := os.MkdirAll(left, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(t.TempDir(), left, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	undo(t, dir)
	crash()
	if _, err := s.Mount(t.Context(), testName, dir, v); err != nil {
		t.Fatal(err)
	}
	if n := mountsOn(t, filepath.Join(dir, "mapped", "0")); n != 0 {
		t.Errorf("%d mounts of the crash are left", n)
	}
	crash()
	if err := s.ReleaseRootfs(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
