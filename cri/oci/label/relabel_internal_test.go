package label

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

const testLabel = "system_u:object_r:container_file_t:s0:c1,c2"

// labelled reads the attribute itself: a kernel without SELinux keeps it, too.
func labelled(t *testing.T, path string) bool {
	t.Helper()
	text := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", text)
	return err == nil && strings.TrimRight(string(text[:n]), "\x00") == testLabel
}

// TestRelabel: all that is below, and nothing that a link leads to.
func TestRelabel(t *testing.T) {
	testenv.Require(t, testenv.Root)
	volume, outside := t.TempDir(), filepath.Join(t.TempDir(), "file")
	inside := []string{volume, volume + "/dir", volume + "/dir/deep", volume + "/dir/deep/file", volume + "/pipe", volume + "/link"}
	for _, err := range []error{
		os.WriteFile(outside, nil, 0o600), os.MkdirAll(volume+"/dir/deep", 0o700), os.WriteFile(volume+"/dir/deep/file", nil, 0),
		unix.Mkfifo(volume+"/pipe", 0o600), os.Symlink(filepath.Dir(outside), volume+"/link"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := (&Machine{}).Relabel(volume, testLabel); err != nil {
		t.Fatal(err)
	}
	for _, path := range inside {
		if !labelled(t, path) {
			t.Errorf("%s has no label", path)
		}
	}
	if labelled(t, outside) || labelled(t, filepath.Dir(outside)) {
		t.Error("a link led to a label outside")
	}
	if err := (&Machine{}).Relabel(outside, testLabel); err != nil || !labelled(t, outside) {
		t.Errorf("of one file: %v, labelled %v", err, labelled(t, outside))
	}
	readOnly(t, volume+"/dir/deep")
	if err := (&Machine{}).Relabel(volume, testLabel); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "deep") {
		t.Errorf("%v, of files that cannot be changed", err)
	}
}

// readOnly makes a directory one until the test ends.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// TestRelabelIsNotLed: while a directory and a link are swapped all the time, as a
// container may do it, nothing behind the link is labelled.
func TestRelabelIsNotLed(t *testing.T) {
	testenv.Require(t, testenv.Root)
	volume, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.WriteFile(outside+"/file", nil, 0o600), os.Mkdir(volume+"/a", 0o700), os.WriteFile(volume+"/a/file", nil, 0o600),
		os.Symlink(outside, volume+"/b"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, volume+"/a", unix.AT_FDCWD, volume+"/b", unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 3000 {
		if err := (&Machine{}).Relabel(volume, testLabel); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	swapping.Wait()
	if labelled(t, outside) || labelled(t, outside+"/file") {
		t.Error("a link that was swapped in led to labels outside")
	}
}
