package record

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHomesAreApart: where the file system takes the hint the directory of the homes has
// it, and elsewhere the server does without.
func TestHomesAreApart(t *testing.T) {
	path := t.TempDir()
	for range 2 { // the second finds it set
		d, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Logf("%s is no ext4 (%#x), and may refuse the hint", path, fs.Type)
		return
	}
	homes, err := os.Open(filepath.Join(path, "dirs"))
	if err != nil {
		t.Fatal(err)
	}
	defer homes.Close()
	flags, err := unix.IoctlGetUint32(int(homes.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topdir == 0 {
		t.Errorf("flags %#x, %v; want %#x among them", flags, err, topdir)
	}
}
