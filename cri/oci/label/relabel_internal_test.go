package label

import (
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
	if err := relabel(volume, testLabel); err != nil {
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
	if err := relabel(outside, testLabel); err != nil || !labelled(t, outside) {
		t.Errorf("of one file: %v, labelled %v", err, labelled(t, outside))
	}
	immutable(t, volume+"/dir/deep/file")
	if err := relabel(volume, testLabel); err == nil || !strings.Contains(err.Error(), "deep/file") {
		t.Errorf("%v, of a file that cannot be changed", err)
	}
}

// immutable makes a file that nobody may change until the test ends.
func immutable(t *testing.T, path string) {
	t.Helper()
	const flag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	set := func(flags int) {
		f, err := os.Open(path)
		if err == nil {
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(flag)
	t.Cleanup(func() { set(0) })
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
		if err := relabel(volume, testLabel); err != nil {
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
