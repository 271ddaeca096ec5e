package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// rootfsIn creates a root file system whose symbolic links would lead out of it if they
// were resolved on the host.
func rootfsIn(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(root+"/store", 0o755), os.Mkdir(root+"/etc", 0o755),
		os.WriteFile(root+"/store/passwd", []byte("app:x:7:7::/:\n"), 0o600),
		os.Symlink("/store/passwd", root+"/etc/passwd"),
		os.Symlink("/../../../../../../../../store", root+"/data"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestAccounts: an image may keep its accounts anywhere within it, and whatever they are,
// reading them terminates.
func TestAccounts(t *testing.T) {
	root := rootfsIn(t)
	if u, err := usersOf(root); err != nil || string(u.Passwd) != "app:x:7:7::/:\n" || u.Group != nil {
		t.Errorf("the accounts are %q, %v", u, err)
	}
	group := root + "/etc/group"
	for name, make := range map[string]func() error{
		"a named pipe": func() error { return unix.Mkfifo(group, 0o600) },
		"a directory":  func() error { return os.Mkdir(group, 0o700) },
		"a huge file": func() error {
			if err := os.WriteFile(group, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(group, 1<<40)
		},
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, err := usersOf(root); err == nil {
			t.Errorf("%s was read as /etc/group", name)
		}
		if err := os.Remove(group); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname-of-the-host", group); err != nil {
		t.Fatal(err)
	}
	if _, err := usersOf(root); err != nil {
		t.Errorf("a link to nowhere: %v", err)
	}
}

// TestAccountsOfADevice: a restored container's accounts may be a device, and opening one
// has effects: it starts a watchdog, for example.
func TestAccountsOfADevice(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := rootfsIn(t)
	const nobodys = 511 // a major number that no driver has: an open is ENXIO
	if err := unix.Mknod(root+"/etc/group", unix.S_IFCHR|0o600, int(unix.Mkdev(nobodys, 0))); err != nil {
		t.Fatal(err)
	}
	if _, err := usersOf(root); err == nil || errors.Is(err, unix.ENXIO) {
		t.Errorf("a device as /etc/group: %v, want it refused and not opened", err)
	}
}

func TestImageVolumes(t *testing.T) {
	root := rootfsIn(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	doc := &specs.Spec{Root: &specs.Root{Path: root, Readonly: true}, Mounts: []specs.Mount{{Destination: "/mine"}, {Destination: "/data/a/b/deep"}}}
	volumes := map[string]struct{}{"/data/a/b": {}, "/mine": {}, "/mine/sub": {}, "/": {}, "var/cache": {}}
	if err := addVolumes(doc, volumes, nil); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range doc.Mounts {
		if m.Source != "" {
			got[m.Destination] = m.Source
		}
	}
	if last := doc.Mounts[len(doc.Mounts)-1]; last.Destination != "/data/a/b/deep" {
		t.Errorf("%q is mounted last, and hides what the Pod mounts below it", last.Destination)
	}
	want := map[string]string{"/data/a/b": root + "/store/a/b", "/var/cache": root + "/var/cache"}
	for to, from := range want {
		info, err := os.Stat(from)
		if got[to] != from || err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the volume %s is %q, want %q: %v, %v", to, got[to], from, info, err)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the mounts are %v, want %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, "mine")); err == nil {
		t.Error("a directory was made for a volume that the Pod mounts itself")
	}
	if err := os.WriteFile(root+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := addVolumes(doc, map[string]struct{}{"/file/x": {}}, nil); err == nil {
		t.Error("a volume below a file was accepted")
	}
}
