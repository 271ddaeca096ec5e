package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// apart makes mounts as the runtime does: above is a shared one; below it, one that cannot
// be bound; and below that, the mounts a and b with a file each.
func apart(t *testing.T) (above string) {
	t.Helper()
	testenv.Require(t, testenv.Root)
	above = t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("above", above, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = mount.DetachTree(above) })
	must(unix.Mount("", above, "", unix.MS_SHARED, ""))
	all := filepath.Join(above, "all")
	must(os.MkdirAll(filepath.Join(all, "a"), 0o755))
	must(os.Mkdir(filepath.Join(all, "b"), 0o755))
	must(unix.Mount(all, all, "", unix.MS_BIND, ""))
	must(unix.Mount("", all, "", unix.MS_PRIVATE, ""))
	must(unix.Mount("", all, "", unix.MS_UNBINDABLE, ""))
	for _, name := range []string{"a", "b"} {
		must(unix.Mount(name, filepath.Join(all, name), "tmpfs", 0, ""))
		must(os.WriteFile(filepath.Join(all, name, "inside-"+name), nil, 0o600))
	}
	return above
}

// runIn runs a shell script in a view, with its output in a file, and returns that.
func runIn(t *testing.T, k *children, view *wire.View, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := k.fork([]string{"/bin/sh", "-c", script}, "/", []*os.File{out, out, out}, view)
	if err != nil {
		t.Fatal(err)
	}
	wantSuccess(t, p)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newViewer() *children {
	return &children{known: map[int]*process{}, views: views{log: slog.New(slog.DiscardHandler)}}
}

// TestView: a program sees the mounts of the host as they are now, of those that cannot be
// bound the named ones, and leaves nothing on the host. It can do what it can do there.
func TestView(t *testing.T) {
	above, k := apart(t), newViewer()
	all := filepath.Join(above, "all")
	before, err := mount.Below(above)
	if err != nil {
		t.Fatal(err)
	}
	view := &wire.View{Mounts: []string{filepath.Join(all, "a")}, Above: above}
	script := "set -e; cd " + all + "; ls a b; unshare --user --mount true; pwd -P; readlink /proc/self/root; mkdir a/x; mount -t tmpfs x a/x; cat /proc/self/mountinfo"
	for range 2 {
		late := t.TempDir()
		if err := unix.Mount("late", late, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		out := runIn(t, k, view, script)
		if err := errors.Join(unix.Unmount(late, 0), os.Remove(filepath.Join(all, "a", "x"))); err != nil {
			t.Error(err)
		}
		if want := "a:\ninside-a\n\nb:\n" + all + "\n/\n"; !strings.HasPrefix(out, want) {
			t.Errorf("it prints %.200q, want %q", out, want)
		}
		if !strings.Contains(out, " "+late+" ") || !strings.Contains(out, " "+all+"/a ") || strings.Contains(out, " "+all+"/b ") || strings.Contains(out, " "+all+" ") {
			t.Errorf("it sees\n%s", out)
		}
	}
	if after, err := mount.Below(above); err != nil || !slices.Equal(before, after) {
		t.Errorf("the mounts became %q, %v; they were %q", after, err, before)
	}
}

// TestViewRefused: where there can be no view, a program runs among all mounts.
func TestViewRefused(t *testing.T) {
	above, k := apart(t), newViewer()
	all := filepath.Join(above, "all")
	for name, view := range map[string]*wire.View{
		"no such mount":           {Mounts: []string{filepath.Join(all, "none")}, Above: above},
		"what cannot be bound":    {Mounts: []string{all}, Above: above},
		"no mount above":          {Mounts: []string{filepath.Join(all, "a")}, Above: filepath.Dir(above)},
		"nobody asked for a view": nil,
	} {
		if out := runIn(t, k, view, "ls "+all+"/a "+all+"/b"); !strings.Contains(out, "inside-b") {
			t.Errorf("%s: it sees %q", name, out)
		}
	}
	k.views.err = errors.New("the kernel refuses it")
	if out := runIn(t, k, &wire.View{Mounts: []string{filepath.Join(all, "a")}, Above: above}, "ls "+all+"/b"); out != "inside-b\n" {
		t.Errorf("after a refusal it sees %q", out)
	}
	if _, err := k.fork([]string{"/no/such/program"}, "/", nil, &wire.View{Mounts: []string{filepath.Join(all, "a")}, Above: above}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestViewOfWhatIsThere: a mount that the view has already is not mounted again, which would
// show among the host's; and what a path leads to in the view is what it leads to outside.
func TestViewOfWhatIsThere(t *testing.T) {
	above := apart(t)
	all := filepath.Join(above, "all")
	for _, dir := range []string{all, filepath.Join(all, "a")} { // and thus not left out
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
	}
	k := newViewer()
	view := &wire.View{Mounts: []string{filepath.Join(all, "a")}, Above: above}
	runIn(t, k, view, "ls "+all)
	if points, err := mount.Below(filepath.Join(all, "a")); err != nil || len(points) != 1 {
		t.Errorf("mounts became %q, %v", points, err)
	}
	if err := unix.Mount("", all, "", unix.MS_UNBINDABLE, ""); err != nil {
		t.Fatal(err)
	}
	view.Paths = []string{filepath.Join(all, "b"), filepath.Join(above, "nowhere")}
	if out := runIn(t, k, view, "ls "+all+"/b"); out != "inside-b\n" {
		t.Errorf("below the unbindable mount is %q", out)
	}
}

// TestViewTooLate: whoever is told that a program does not run in a view may run it
// elsewhere, because it never will.
func TestViewTooLate(t *testing.T) {
	above := apart(t)
	view := &wire.View{Mounts: []string{filepath.Join(above, "all", "a")}, Above: above}
	var inside, outside int
	for i := range 300 {
		v := &views{log: slog.New(slog.DiscardHandler), limit: time.Duration(i) * 2 * time.Microsecond} // the first has all the time, the second next to none
		var ran atomic.Int32
		said := v.within(view, func() error {
			ran.Add(1)
			return nil
		})
		if said {
			inside++
		} else {
			outside++
			time.Sleep(time.Millisecond)
		}
		if got := ran.Load() == 1; got != said {
			t.Fatalf("it ran %d times, and is said to have: %t", ran.Load(), said)
		}
		_ = unix.Close(v.empty)
	}
	if inside == 0 || outside == 0 {
		t.Errorf("%d were in time, %d were not", inside, outside)
	}
}
