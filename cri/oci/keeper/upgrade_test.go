package keeper_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestReplace: a keeper of another program goes on with the containers of the one
// before it, and so does the next that dies.
func TestReplace(t *testing.T) {
	h := newHostOf(t, tool("keeper"))
	const count = 20000
	st := h.start("c", talk(count))
	first, err := h.Hello(t.Context())
	h.must(err)
	for _, name := range []string{"new", "newer"} {
		program := filepath.Join(h.dir, name)
		copyProgram(t, tool("keeper"), program)
		h.must(h.Replace(t.Context(), program))
		hello, err := h.Hello(t.Context())
		h.must(err)
		if hello.Anchor != first.Anchor {
			t.Errorf("the anchor changed from %d to %d", first.Anchor, hello.Anchor)
		}
		h.kill(itself)
		hello, err = h.Hello(t.Context())
		h.must(err)
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", hello.PID)); exe != program {
			t.Errorf("the keeper is %q, %v; want %q", exe, err, program)
		}
	}
	list, err := h.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Exit == nil && list[0].PID != st.PID {
		t.Errorf("after two upgrades the keeper has %+v, %v; want process %d", list, err, st.PID)
	}
	if e := h.exit("c"); e.Code != 7 {
		t.Errorf("it ended with %d, want 7", e.Code)
	}
	stdout, stderr := talked(count)
	o, e := h.streams("c")
	h.same("stdout", o, stdout)
	h.same("stderr", e, stderr)
}

// TestReplaceByNoKeeper: a program that does not run changes nothing; one that is
// deleted later is followed by the anchor's own.
func TestReplaceByNoKeeper(t *testing.T) {
	h := newHostOf(t, tool("keeper"))
	before, err := h.Hello(t.Context())
	h.must(err)
	for _, program := range []string{"/not/there", "/bin/false"} {
		if err := h.Replace(t.Context(), program); !errors.Is(err, fault.FailedPrecondition) {
			t.Errorf("replacing it by %q says %v, want %q", program, err, fault.FailedPrecondition)
		}
	}
	if now, err := h.Hello(t.Context()); err != nil || now != before {
		t.Errorf("the keeper changed from %+v to %+v, %v", before, now, err)
	}
	program := filepath.Join(h.dir, "gone")
	copyProgram(t, tool("keeper"), program)
	h.must(h.Replace(t.Context(), program))
	h.start("c", "sleep 0.2; exit 8")
	h.must(os.Remove(program))
	h.kill(itself)
	if e := h.exit("c"); e.Code != 8 {
		t.Errorf("it ended with %d, want 8", e.Code)
	}
}

// TestReplaceByOneThatDoesNotComeUp: a program that passes the trial and then ends,
// or does nothing, before it serves costs no container: the one that served before
// goes on, also where the new one took the place of its file.
func TestReplaceByOneThatDoesNotComeUp(t *testing.T) {
	for name, body := range map[string]string{"it ends": "exit 1", "it hangs": "exec sleep 1000"} {
		t.Run(name, func(t *testing.T) {
			h := newHostOf(t, tool("keeper"))
			good := filepath.Join(h.dir, "good")
			copyProgram(t, tool("keeper"), good)
			h.must(h.Replace(t.Context(), good))
			h.start("c", talk(2000))
			broken := filepath.Join(h.dir, "broken")
			h.must(os.WriteFile(broken, []byte("#!/bin/sh\n[ \"$1\" = true ] || "+body+"\n"), 0o755))
			h.must(os.Rename(broken, good))
			if err := h.Replace(t.Context(), good); !errors.Is(err, fault.FailedPrecondition) {
				t.Errorf("the replacement says %v, want %q", err, fault.FailedPrecondition)
			}
			hello, err := h.Hello(t.Context())
			h.must(err)
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", hello.PID)); exe != good+" (deleted)" {
				t.Errorf("the keeper is %q, %v; want the one before", exe, err)
			}
			if e := h.exit("c"); e.Code != 7 || e.Lost {
				t.Errorf("the container ended as %+v, want 7", e)
			}
			stdout, stderr := talked(2000)
			o, e := h.streams("c")
			h.same("stdout", o, stdout)
			h.same("stderr", e, stderr)
		})
	}
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestContainersGetNoDescriptors but their three, whatever keeper starts them, and
// no keeper collects any.
func TestContainersGetNoDescriptors(t *testing.T) {
	h := newHost(t)
	for i, victim := range []int{0, 1, 2} {
		id := fmt.Sprint("c", i)
		h.start(id, "exec ls /proc/self/fd")
		h.exit(id)
		if got := strings.Fields(h.text(id)); !slices.Equal(got, []string{"0", "1", "2", "3"}) { // 3 is the folder
			t.Errorf("%s has the descriptors %q, want 0 to 2", id, got)
		}
		h.must(h.Remove(t.Context(), id))
		switch victim {
		case 0:
			h.kill(itself)
		case 1:
			h.kill(itsAnchor)
		}
	}
	hello, err := h.Hello(t.Context())
	h.must(err)
	count := func(pid int) int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		h.must(err)
		return len(fds)
	}
	inKeeper, inAnchor := count(hello.PID), count(hello.Anchor)
	for i := range 20 {
		id := fmt.Sprint("d", i)
		h.start(id, "exit 0")
		if i%5 == 0 {
			h.kill(itself)
		}
		h.exit(id)
		h.must(h.Remove(t.Context(), id))
	}
	hello, err = h.Hello(t.Context())
	h.must(err)
	for late := time.Now().Add(5 * time.Second); count(hello.PID) > inKeeper+8 || count(hello.Anchor) > inAnchor+8; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("20 containers that were removed left the keeper %d and the anchor %d descriptors, and before they had %d and %d",
				count(hello.PID), count(hello.Anchor), inKeeper, inAnchor)
		}
	}
}

// TestStdinSurvives: the keeper's death is not the end of a container's input.
func TestStdinSurvives(t *testing.T) {
	h := newHost(t)
	_, err := h.container("cat", "exec cat", func(r *keeper.StartRequest) { r.Stdin = true })
	h.must(err)
	for _, line := range []string{"one\n", "two\n"} {
		a, err := h.Attach(t.Context(), "cat", true)
		h.must(err)
		_, err = a.Write([]byte(line))
		h.must(err)
		for late := time.Now().Add(5 * time.Second); h.text("cat") != line && h.text("cat") != "one\ntwo\n"; time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("after %q the log is %q", line, h.text("cat"))
			}
		}
		h.must(a.Close())
		h.kill(itself)
	}
	h.terminate("cat")
	if e := h.exit("cat"); e.Code != 143 {
		t.Errorf("it ended with %d, want 143", e.Code)
	}
}

// TestStdinOnceEndsWithTheKeeper: the first client that gives input is the last,
// also when it is the keeper's death that ends it.
func TestStdinOnceEndsWithTheKeeper(t *testing.T) {
	h := newHost(t)
	_, err := h.container("cat", "cat; exit 3", func(r *keeper.StartRequest) { r.Stdin, r.StdinOnce = true, true })
	h.must(err)
	h.kill(itself) // nobody has attached yet
	a, err := h.Attach(t.Context(), "cat", true)
	h.must(err)
	defer a.Close()
	_, err = a.Write([]byte("hello\n"))
	h.must(err)
	for late := time.Now().Add(5 * time.Second); h.text("cat") != "hello\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("the log is %q", h.text("cat"))
		}
	}
	h.kill(itself)
	if e := h.exit("cat"); e.Code != 3 {
		t.Errorf("it ended with %d, want 3", e.Code)
	}
}

// TestClientLeavesInTheMiddle: a client that gives more than the container reads,
// and goes, is seen to go.
func TestClientLeavesInTheMiddle(t *testing.T) {
	h := newHost(t)
	_, err := h.container("slow", "sleep 0.5; wc -c; exit 3", func(r *keeper.StartRequest) { r.Stdin, r.StdinOnce = true, true })
	h.must(err)
	a, err := h.Attach(t.Context(), "slow", true)
	h.must(err)
	_, err = a.Write(make([]byte, 100<<10)) // the pipe takes 64 KiB
	h.must(err)
	h.must(a.Close())
	if e := h.exit("slow"); e.Code != 3 {
		t.Errorf("it ended with %d, want 3", e.Code)
	}
	if got := h.text("slow"); got != "102400\n" {
		t.Errorf("it has read %q bytes, want all", got)
	}
	_, err = h.container("deaf", "exec sleep 1000", func(r *keeper.StartRequest) { r.Stdin, r.StdinOnce = true, true })
	h.must(err)
	a, err = h.Attach(t.Context(), "deaf", true)
	h.must(err)
	_, err = a.Write(make([]byte, 100<<10))
	h.must(err)
	h.must(a.Close())
	hello, err := h.Hello(t.Context())
	h.must(err)
	for late := time.Now().Add(20 * time.Second); h.holdsStdin(hello.PID, "deaf"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the client has gone, and the input is still open")
		}
	}
}

// holdsStdin reports whether the process has an end of the pipe that is the
// container's standard input.
func (h *host) holdsStdin(process int, id string) bool {
	h.t.Helper()
	pipe, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", h.statusOf(id).PID))
	h.must(err)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process))
	h.must(err)
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return to == pipe
	})
}
