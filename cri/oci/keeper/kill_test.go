package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// talk prints count numbered lines to both outputs, each in two writes, and ends
// with 7.
func talk(count int) string {
	return fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "out $i"; printf "err "; echo "$i" ; echo "err $i" >&2; done; printf 'no end'; exit 7`, count)
}

func talked(count int) (stdout, stderr string) {
	var o, e strings.Builder
	for i := 1; i <= count; i++ {
		fmt.Fprintf(&o, "out %d\nerr %d\n", i, i)
		fmt.Fprintf(&e, "err %d\n", i)
	}
	return o.String() + "no end", e.String()
}

// streams are the log's two streams without the heads of the records, and every
// record is whole.
func (h *host) streams(id string) (stdout, stderr string) {
	h.t.Helper()
	return h.streamsOf(filepath.Join(h.dir, id, "log"))
}

func (h *host) streamsOf(file string) (stdout, stderr string) {
	h.t.Helper()
	raw, err := os.ReadFile(file)
	h.must(err)
	text := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || text[f[1]] == nil || !strings.HasSuffix(line, "\n") {
			h.t.Fatalf("%s has the record %q", file, line)
		}
		if f[2] == "P" {
			f[3] = strings.TrimSuffix(f[3], "\n")
		}
		text[f[1]].WriteString(f[3])
	}
	return text["stdout"].String(), text["stderr"].String()
}

// same compares long texts and shows where they part.
func (h *host) same(what, got, want string) {
	h.t.Helper()
	if got == want {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(len(s), i)-40):min(len(s), i+40)] }
	h.t.Errorf("%s: %d bytes, want %d; from byte %d on %q, want %q", what, len(got), len(want), i, around(got), around(want))
}

// kill kills one process of the two and waits until there are two again. While
// there is one, its death is the death of both.
func (h *host) kill(victim func(keeper.Hello) int) {
	h.t.Helper()
	hello, err := h.Hello(h.t.Context())
	h.must(err)
	if err := unix.Kill(victim(hello), unix.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.successor(hello)
}

// successor waits until another keeper than that one serves.
func (h *host) successor(before keeper.Hello) {
	h.t.Helper()
	for {
		now, err := h.Hello(h.t.Context())
		h.must(err)
		if now.PID != before.PID {
			return
		}
	}
}

func itself(h keeper.Hello) int    { return h.PID }
func itsAnchor(h keeper.Hello) int { return h.Anchor }

// TestKilledUnderLoad kills keepers and anchors, one after the other, while
// containers print: no byte of the logs is lost or there twice, no exit code is
// lost, and no container ends.
func TestKilledUnderLoad(t *testing.T) {
	for name, victim := range map[string]func(int) func(keeper.Hello) int{
		"keeper": func(int) func(keeper.Hello) int { return itself },
		"anchor": func(int) func(keeper.Hello) int { return itsAnchor },
		"in turn": func(i int) func(keeper.Hello) int {
			if i%2 == 0 {
				return itself
			}
			return itsAnchor
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			const count = 20000
			for i := range 3 {
				h.start(fmt.Sprint("c", i), talk(count))
			}
			kills := 0
			for running := true; running; kills++ {
				h.kill(victim(kills))
				time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
				list, err := h.List(t.Context())
				h.must(err)
				running = false
				for _, st := range list {
					running = running || st.Exit == nil
				}
			}
			t.Logf("%d kills", kills)
			stdout, stderr := talked(count)
			for i := range 3 {
				id := fmt.Sprint("c", i)
				if e := h.exit(id); e.Code != 7 || e.Lost {
					t.Errorf("%s ended as %+v, want 7", id, e)
				}
				o, e := h.streams(id)
				h.same(id+" stdout", o, stdout)
				h.same(id+" stderr", e, stderr)
			}
		})
	}
}

// TestKilledWhileStarting kills keepers before they serve, too.
func TestKilledWhileStarting(t *testing.T) {
	h := newHost(t)
	const count = 20000
	h.start("c", talk(count))
	hello, err := h.Hello(t.Context())
	h.must(err)
	for range 100 {
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", hello.Anchor))
		h.must(err)
		for _, file := range lists {
			text, _ := os.ReadFile(file)
			for _, pid := range strings.Fields(string(text)) {
				if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.HasPrefix(string(line), "nodekit-keeper\x00run") {
					n, err := strconv.Atoi(pid)
					h.must(err)
					_ = unix.Kill(n, unix.SIGKILL)
				}
			}
		}
	}
	if e := h.exit("c"); e.Code != 7 || e.Lost {
		t.Errorf("it ended as %+v, want 7", e)
	}
	stdout, stderr := talked(count)
	o, e := h.streams("c")
	h.same("stdout", o, stdout)
	h.same("stderr", e, stderr)
}

// TestKilledAtStarts: a start that is under way when the keeper dies ends as if
// nothing had happened, and is done once. Where the anchor is killed as well, which
// may be before the start that the keeper's death has interrupted is over, the
// exit may be lost; but nothing is done twice.
func TestKilledAtStarts(t *testing.T) {
	for name, victims := range map[string][]func(keeper.Hello) int{"keeper": {itself}, "both": {itself, itsAnchor}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			ctx, cancel := context.WithCancel(t.Context())
			killer := make(chan int)
			go func() { killer <- h.killOn(ctx, victims) }()
			lost := 0
			for i := range 30 {
				id := fmt.Sprint("s", i)
				_, err := h.container(id, fmt.Sprintf("echo once >>%s/%s/ran; exit %d", h.dir, id, i), nil)
				h.must(err)
				e := h.exit(id)
				ran, _ := os.ReadFile(filepath.Join(h.dir, id, "ran"))
				switch {
				case e.Lost && len(victims) > 1 && len(ran) <= len("once\n"):
					lost++
				case e.Code != int32(i) || e.Lost || string(ran) != "once\n":
					t.Errorf("%s ended as %+v and ran as %q, want %d and once", id, e, ran, i)
				}
			}
			cancel()
			t.Logf("%d kills, %d of 30 exits lost", <-killer, lost)
		})
	}
}

// TestKilledBehindATerminal: a start whose terminal has been received goes on with
// it, whatever keepers die meanwhile.
func TestKilledBehindATerminal(t *testing.T) {
	h := newHost(t)
	hello, err := h.Hello(t.Context())
	h.must(err)
	for i := range 4 {
		h.awaitTerminal(hello.Anchor, false) // the one before
		id := fmt.Sprint("tty", i)
		done := make(chan error, 1)
		go func() {
			_, err := h.container(id, "echo hello; exit 6", func(r *keeper.StartRequest) {
				r.Command.Console = "console"
				r.Command.Args = append(r.Command.Args, "console")
			})
			done <- err
		}()
		h.awaitTerminal(hello.Anchor, true) // and the script's parent lives
		for range i {
			h.kill(itself)
		}
		h.must(<-done)
		if e := h.exit(id); e.Code != 6 || e.Lost {
			t.Errorf("%s ended as %+v, want 6", id, e)
		}
		if got := h.text(id); got != "hello\r\n" {
			t.Errorf("the log of %s is %q, want hello", id, got)
		}
		h.must(h.Remove(t.Context(), id))
	}
}

// TestTerminalThatNobodyHasOpen: a container that closes its terminal lives on, which a
// hang-up would end, and may open it again, under this keeper and under the next.
func TestTerminalThatNobodyHasOpen(t *testing.T) {
	h := newHost(t)
	script := "name=$(tty); echo one; exec <&- >&- 2>&-; : >closed; " + held + "exec <$name >$name 2>&1; echo two; exit 4"
	for i := range 2 {
		id := fmt.Sprint("tty", i)
		_, err := h.container(id, script, func(r *keeper.StartRequest) {
			r.Command.Console = "console"
			r.Command.Args = append(r.Command.Args, "console")
		})
		h.must(err)
		closed := filepath.Join(h.dir, id, "closed")
		for _, err := os.Stat(closed); err != nil; _, err = os.Stat(closed) {
			time.Sleep(time.Millisecond)
		}
		h.says(id, "one\r\n")
		for range i {
			h.kill(itself)
		}
		h.release(id)
		if e := h.exit(id); e.Code != 4 {
			t.Errorf("%s ended with %d, want 4", id, e.Code)
		}
		if got := h.text(id); got != "one\r\ntwo\r\n" {
			t.Errorf("the log of %s is %q, want one and two", id, got)
		}
	}
}

// awaitTerminal waits until the process has a terminal, or has none.
func (h *host) awaitTerminal(process int, want bool) {
	h.t.Helper()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process))
		h.must(err)
		has := slices.ContainsFunc(fds, func(fd string) bool {
			to, _ := os.Readlink(fd)
			return strings.HasSuffix(to, "/ptmx")
		})
		if has == want {
			return
		}
		if time.Now().After(late) {
			h.t.Fatalf("process %d has a terminal: %v", process, has)
		}
	}
}

// killOn kills one of the two at random moments until ctx ends, and returns how
// often.
func (h *host) killOn(ctx context.Context, victims []func(keeper.Hello) int) (n int) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(1+rand.IntN(60)) * time.Millisecond)
		hello, err := h.Hello(ctx)
		if err != nil {
			continue
		}
		n++
		_ = unix.Kill(victims[rand.IntN(len(victims))](hello), unix.SIGKILL)
		for now := hello; now.PID == hello.PID && ctx.Err() == nil; {
			now, _ = h.Hello(ctx)
		}
	}
	return n
}

// TestAllDie: what is documented to be lost, and no more.
func TestAllDie(t *testing.T) {
	h := newHost(t)
	h.start("ended", "exit 5")
	h.exit("ended")
	st := h.start("runs", `i=0; while echo "line $i"; do i=$((i+1)); echo $i >count; done; exit 9`)
	for late := time.Now().Add(10 * time.Second); !strings.Contains(h.text("runs"), "line 9\n"); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("it has logged %q", h.text("runs"))
		}
	}
	hello, err := h.Hello(t.Context())
	h.must(err)
	h.must(unix.Kill(hello.Anchor, unix.SIGSTOP)) // so that none of them notices
	h.must(unix.Kill(hello.PID, unix.SIGSTOP))
	time.Sleep(300 * time.Millisecond) // the pipe fills
	h.must(unix.Kill(hello.PID, unix.SIGKILL))
	h.must(unix.Kill(hello.Anchor, unix.SIGKILL))
	if _, err := h.Hello(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("after the death of both a call says %v, want %q", err, fault.Unavailable)
	}
	h.startKeeper()
	list, err := h.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Exit == nil || list[0].Exit.Code != 5 {
		t.Errorf("the next keeper knows %+v, %v, want the exit that was recorded", list, err)
	}
	for late := time.Now().Add(5 * time.Second); unix.Kill(st.PID, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			_ = unix.Kill(st.PID, unix.SIGKILL)
			t.Fatal("a container whose output nobody holds writes on")
		}
	}
	raw, err := os.ReadFile(filepath.Join(h.dir, "runs", "count"))
	h.must(err)
	count, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	h.must(err)
	var written strings.Builder
	for i := range count {
		fmt.Fprintf(&written, "line %d\n", i)
	}
	logged := h.text("runs")
	lost := written.Len() - len(logged)
	t.Logf("%d of %d bytes are lost", lost, written.Len())
	if !strings.HasPrefix(written.String()+fmt.Sprintf("line %d\n", count), logged) || lost > 64<<10 {
		t.Errorf("%d of %d bytes are lost, want those that a pipe holds and no line before them; the log ends in %.40q", lost, written.Len(), logged[max(0, len(logged)-40):])
	}
}

// TestExitsWithoutParents: exits that neither the keeper nor the anchor can wait
// for are asked of the kernel, and are called lost where it does not tell.
func TestExitsWithoutParents(t *testing.T) {
	for _, ask := range []bool{true, false} {
		t.Run(strconv.FormatBool(ask), func(t *testing.T) {
			h := unstartedHost(t)
			h.launch.NoExitInfo = !ask
			h.startKeeper()
			h.start("c", held+"exit 6")
			h.kill(itself)    // c is the anchor's
			h.kill(itsAnchor) // c is init's
			h.release("c")
			e := h.exit("c")
			switch {
			case ask && exitInfoWorks(t) && (e.Code != 6 || e.Lost):
				t.Errorf("it ended as %+v, want 6 from the kernel", e)
			case !ask && (e.Code != 137 || !e.Lost):
				t.Errorf("it ended as %+v, want a lost exit", e)
			}
		})
	}
}

// exitInfoWorks reports whether this kernel tells of the end of a process that was
// reaped.
func exitInfoWorks(t *testing.T) bool {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}
