package keeper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestSlowDisk: a write to a log that does not end holds up its own container
// alone, and no other's log, start, exit or call; and when it ends at last nothing
// is missing, though the keeper was killed meanwhile.
func TestSlowDisk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	h := newHost(t)
	disk := frozenDisk(t)
	const count = 20000
	for i := range 3 {
		_, err := h.container(fmt.Sprint("slow", i), talk(count), func(r *keeper.StartRequest) { r.Log = fmt.Sprintf("%s/log%d", disk.dir, i) })
		h.must(err)
	}
	disk.freeze()
	time.Sleep(100 * time.Millisecond) // they come to wait
	hanging := make(chan error, 1)
	go func() {
		_, err := h.container("hanging", "exit 6", func(r *keeper.StartRequest) { r.Log = disk.dir + "/hanging" })
		hanging <- err
	}()
	for h.statusOf("hanging").ID == "" {
		time.Sleep(time.Millisecond)
	}
	if begun, st := time.Now(), h.statusOf("hanging"); !st.Starting || st.PID != 0 || time.Since(begun) > 5*time.Second {
		t.Errorf("a start that hangs is %+v after %v, want starting", st, time.Since(begun))
	}
	for i := range 5 {
		id := fmt.Sprint("other", i)
		begun := time.Now()
		h.start(id, "echo hello; exit 3")
		if e := h.exit(id); e.Code != 3 || h.text(id) != "hello\n" {
			t.Errorf("%s ended with %d and the log %q, want 3 and hello", id, e.Code, h.text(id))
		}
		if _, err := h.List(t.Context()); err != nil {
			t.Error(err)
		}
		h.must(h.Remove(t.Context(), id))
		if late := time.Since(begun); late > 5*time.Second {
			t.Errorf("beside a disk that does not answer a container took %v", late)
		}
	}
	// A keeper that waits for a disk cannot even be killed before it answers.
	disk.thaw()
	h.kill(itself)
	h.must(<-hanging)
	if e := h.exit("hanging"); e.Code != 6 {
		t.Errorf("the start that hung ended with %d, want 6", e.Code)
	}
	stdout, stderr := talked(count)
	for i := range 3 {
		id := fmt.Sprint("slow", i)
		if e := h.exit(id); e.Code != 7 {
			t.Errorf("%s ended with %d, want 7", id, e.Code)
		}
		h.awaitDrained(id)
		o, e := h.streamsOf(fmt.Sprintf("%s/log%d", disk.dir, i))
		h.same(id+" stdout", o, stdout)
		h.same(id+" stderr", e, stderr)
	}
}

// TestRemovedOnASlowDisk: what a container has printed is in its log, though it was removed
// while its disk did not answer, and the keeper was killed before it did.
func TestRemovedOnASlowDisk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	h := newHost(t)
	disk := frozenDisk(t)
	const count = 1000
	printed := filepath.Join(h.dir, "printed")
	script := fmt.Sprintf("%si=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; done; : >%s; exec sleep 1000", held, count, printed)
	_, err := h.container("slow0", script, func(r *keeper.StartRequest) { r.Log = disk.dir + "/log0" })
	h.must(err)
	disk.freeze()
	h.release("slow0")
	for _, err := os.Stat(printed); err != nil; _, err = os.Stat(printed) {
		time.Sleep(time.Millisecond)
	}
	h.must(h.Remove(t.Context(), "slow0"))
	hello, err := h.Hello(t.Context())
	h.must(err)
	h.must(unix.Kill(hello.PID, unix.SIGKILL)) // it ends when its disk answers
	disk.thaw()
	h.successor(hello)
	h.awaitDrained("slow0")
	var out, want strings.Builder
	h.must(log.Read(t.Context(), disk.dir+"/log0", &out, nil, nil))
	for i := range count {
		fmt.Fprintln(&want, i+1)
	}
	h.same("the log", out.String(), want.String())
	if list, err := h.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("the keeper lists %v, %v; want no container", list, err)
	}
}

// statusOf is what the keeper lists of a container.
func (h *host) statusOf(id string) keeper.Status {
	h.t.Helper()
	list, err := h.List(h.t.Context())
	h.must(err)
	for _, st := range list {
		if st.ID == id {
			return st
		}
	}
	return keeper.Status{}
}

// disk is a file system that can be made not to answer.
type disk struct {
	t      *testing.T
	dir    string
	frozen bool
}

func frozenDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t, dir: filepath.Join(t.TempDir(), "mnt")}
	image := filepath.Join(filepath.Dir(d.dir), "image")
	for _, args := range [][]string{
		{"truncate", "-s", "64M", image}, {"mkfs.ext4", "-q", "-F", image}, {"mkdir", d.dir}, {"mount", "-o", "loop", image, d.dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		d.thaw()
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// The ioctls of fsfreeze(8).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (d *disk) freeze() { d.set(fiFreeze); d.frozen = true }

func (d *disk) thaw() {
	if d.frozen {
		d.set(fiThaw)
		d.frozen = false
	}
}

func (d *disk) set(request uint) {
	d.t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), request, 0); err != nil {
		d.t.Fatal(err)
	}
}

// awaitDrained waits until the keeper holds no log of the container open: output
// that comes from a slow disk may be late.
func (h *host) awaitDrained(id string) {
	h.t.Helper()
	hello, err := h.Hello(h.t.Context())
	h.must(err)
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		open := false
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", hello.PID))
		for _, fd := range fds {
			to, _ := os.Readlink(fd)
			open = open || strings.Contains(to, strings.Replace(id, "slow", "/log", 1))
		}
		if !open {
			return
		}
		if time.Now().After(late) {
			h.t.Fatalf("%s is still being written", id)
		}
	}
}

// TestFullLogDisk: a container whose log finds no room neither waits nor dies, what it
// prints when there is room again is in the log, no line is there that it did not print,
// and the keeper says how much is missing.
func TestFullLogDisk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	h := newHost(t)
	dir := t.TempDir()
	h.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { h.must(unix.Unmount(dir, unix.MNT_DETACH)) })
	ballast := dir + "/ballast"
	h.must(os.WriteFile(ballast, make([]byte, 32<<10), 0o600))
	print := func(word string) string {
		return fmt.Sprintf("i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo '%s' $i; done; ", word)
	}
	_, err := h.container("full", print("before")+held+"echo after; exit 3", func(r *keeper.StartRequest) { r.Log = dir + "/log" })
	h.must(err)
	keeperSays := func(text string) bool {
		said, err := os.ReadFile(h.dir + "/log")
		h.must(err)
		return strings.Contains(string(said), text)
	}
	for !keeperSays("no space left") {
		time.Sleep(time.Millisecond)
	}
	h.must(os.Remove(ballast))
	h.release("full")
	if e := h.exit("full"); e.Code != 3 {
		t.Errorf("it ended with %d, want 3", e.Code)
	}
	var out strings.Builder
	h.must(log.Read(t.Context(), dir+"/log", &out, nil, nil))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if last := lines[len(lines)-1]; last != "after" {
		t.Errorf("the last line is %q, want after", last)
	}
	for i, line := range lines[:len(lines)-1] {
		n, err := strconv.Atoi(strings.TrimPrefix(line, "before "))
		if err != nil || n < 1 || n > 1000 || n <= i {
			t.Errorf("line %d is %q", i+1, line)
		}
	}
	if len(lines) > 1000 || !keeperSays("is not complete") {
		t.Errorf("%d lines are there, and the keeper does not say that some are not", len(lines))
	}
}
