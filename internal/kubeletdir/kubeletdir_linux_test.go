package kubeletdir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/kubeletdir"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// sharedRoot returns a directory that is a shared mount, as a node's root is.
func sharedRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := mount.MakeShared(root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.DetachTree(root); err != nil {
			t.Error(err)
		}
	})
	return root
}

// in runs a shell script that sees root at Path.
func in(t *testing.T, root, script string) {
	t.Helper()
	release, err := kubeletdir.Hold()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	}()
	p, err := supervisor.Start(supervisor.Command{Path: "/bin/sh", Args: []string{"-ec", script}, Enter: kubeletdir.Enter(root)})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		p.Kill()
	}
	if err := p.Err(); err != nil {
		t.Fatalf("%v: %s", err, p.Tail())
	}
}

func TestMountsPropagateBothWays(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := sharedRoot(t)
	before := filepath.Join(root, "before")
	if err := os.Mkdir(before, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Tmpfs(before, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(before, "f"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}

	elsewhere := t.TempDir()
	in(t, root, `
		test "$(cat /var/lib/kubelet/before/f)" = host
		mkdir /var/lib/kubelet/by-path `+root+`/by-root
		mount -t tmpfs none /var/lib/kubelet/by-path
		mount -t tmpfs none `+root+`/by-root
		echo plugin >/var/lib/kubelet/by-path/f
		echo plugin >/var/lib/kubelet/by-root/f
		mount -t tmpfs none `+elsewhere)

	for _, dir := range []string{"by-path", "by-root"} {
		if got, err := os.ReadFile(filepath.Join(root, dir, "f")); err != nil || string(got) != "plugin\n" {
			t.Errorf("what the plugin mounted at %s reads %q, %v here", dir, got, err)
		}
		if is, err := mount.IsMountPoint(filepath.Join(root, dir)); err != nil || !is {
			t.Errorf("%s is no mount point here (%v)", dir, err)
		}
	}
	for _, path := range []string{kubeletdir.Path, elsewhere} {
		if is, _ := mount.IsMountPoint(path); is {
			t.Errorf("what was mounted at %s is seen outside the plugin's namespace", path)
		}
	}
}

// TestLastHolderRemovesWhatTheFirstMade has a place for Path of its own, where no
// other program that is tested holds it.
func TestLastHolderRemovesWhatTheFirstMade(t *testing.T) {
	testenv.Require(t, testenv.Root)
	alone := func() error {
		for _, step := range []func() error{
			func() error { return unix.Unshare(unix.CLONE_NEWNS) },
			func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
			func() error { return unix.Mount("none", filepath.Dir(kubeletdir.Path), "tmpfs", 0, "") },
			func() error { return holdTwice(false) },
			func() error { return os.Mkdir(kubeletdir.Path, 0o750) },
			func() error { return holdTwice(true) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}
	p, err := supervisor.Start(supervisor.Command{Path: "true", Enter: alone})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
}

// holdTwice holds Path twice and releases it. there says that it is there before.
func holdTwice(there bool) error {
	first, err := kubeletdir.Hold()
	if err != nil {
		return err
	}
	second, err := kubeletdir.Hold()
	if err != nil {
		return err
	}
	if err := first(); err != nil {
		return err
	}
	if _, err := os.Stat(kubeletdir.Path); err != nil {
		return fmt.Errorf("gone while it is held: %w", err)
	}
	if err := second(); err != nil {
		return err
	}
	if _, err := os.Stat(kubeletdir.Path); (err == nil) != there {
		return fmt.Errorf("there before: %v, after: %v", there, !there)
	}
	return nil
}
