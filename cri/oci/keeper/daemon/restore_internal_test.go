package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// standInAnchor answers as an anchor that has these entries, and the caller's
// process as its keeper; the descriptors are sent as they are. It stays: a keeper
// whose anchor goes takes its place.
func standInAnchor(t *testing.T, entries ...anchor.Entry) *anchor.Line {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	reply := func(msg map[string]any, files []int) {
		text, _ := json.Marshal(msg)
		_ = unix.Sendmsg(pair[0], text, unix.UnixRights(files...), nil, unix.MSG_NOSIGNAL)
	}
	go func() {
		for buf := make([]byte, 64<<10); ; {
			n, _, _, _, err := unix.Recvmsg(pair[0], buf, nil, 0)
			if n <= 0 || err != nil {
				return
			}
			var m struct{ Op string }
			_ = json.Unmarshal(buf[:n], &m)
			switch m.Op {
			case "list":
				for _, e := range entries {
					files := e.Files
					e.Files = nil
					reply(map[string]any{"op": "list", "entry": e}, files)
				}
				reply(map[string]any{"op": "list", "version": 2}, nil)
			case "peek":
				reply(map[string]any{"op": "peek", "gone": true}, nil)
			case "kept":
				reply(map[string]any{"op": "kept", "entry": map[string]any{}, "kept": true}, nil)
			}
		}
	}()
	return anchor.NewLine(pair[1])
}

// newTestServer returns a keeper's server that has restored what the anchor has,
// and does not serve.
func newTestServer(t *testing.T, entries ...anchor.Entry) *server {
	t.Helper()
	log := slog.New(slog.DiscardHandler) // processes end after the test
	j, err := journal.Open(filepath.Join(t.TempDir(), "exits"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	s := &server{
		log: log, journal: j, escrow: newEscrow(standInAnchor(t, entries...), nil, log),
		containers: map[string]*container{}, changed: make(chan struct{}),
	}
	stop, err := s.restore(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.children.begin() // whatever goes on still reaps none of the next test's children
		stop()
	})
	return s
}

// entryOf is an entry as a keeper leaves it.
func entryOf(t *testing.T, e anchor.Entry, rec record) anchor.Entry {
	t.Helper()
	data, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	e.Data = data
	return e
}

// sleeper starts a process, and returns its pidfd, too.
func sleeper(t *testing.T) (cmd *exec.Cmd, pidfd int) {
	t.Helper()
	cmd = exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, pidfd
}

// A damaged entry costs its own container, whose end becomes known, and a damaged
// desk nothing; the others go on.
func TestDamagedEntries(t *testing.T) {
	_, pidfd := sleeper(t)
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(
		t,
		entryOf(t, anchor.Entry{ID: "short", PID: 1 << 30, Files: []int{null}}, record{Key: 1, Roles: []role{roleStdout, roleProcess}}),
		anchor.Entry{ID: "strange", PID: 1 << 30, Data: json.RawMessage(`"strange"`), Files: []int{null}},
		entryOf(t, anchor.Entry{ID: "starting", Starting: true, Files: []int{null}}, record{Key: 2, Roles: []role{roleStdout, roleStderr}}),
		anchor.Entry{ID: execID + "1", Data: json.RawMessage(`7`)},
		anchor.Entry{ID: deskID + "0", Data: json.RawMessage(`{"index":0}`), Files: []int{null}},
		anchor.Entry{ID: deskID + "1", Data: json.RawMessage(`{"index":-1}`)},
		entryOf(t, anchor.Entry{ID: "whole", PID: 1 << 30, Files: []int{pidfd}}, record{Key: 3, Roles: []role{roleProcess}}),
	)
	got := map[string]bool{}
	for _, st := range s.list() {
		got[st.ID] = st.Exit != nil && st.Exit.Lost
		if st.ID == "whole" && st.PID == 0 {
			t.Errorf("the whole one is %+v", st)
		}
	}
	if len(got) != 3 || !got["short"] || !got["strange"] || got["whole"] {
		t.Errorf("lost are %v, want those that are damaged and ran", got)
	}
	if len(s.journal.Pending()) != 2 {
		t.Errorf("the journal has %v, want two exits", s.journal.Pending())
	}
	s.escrow.mu.Lock()
	for _, id := range []string{"short", "strange", "starting", execID + "1", deskID + "0", deskID + "1"} {
		if _, ok := s.escrow.entries[id]; ok {
			t.Errorf("%q is still in the escrow", id)
		}
	}
	s.escrow.mu.Unlock()
	if k, err := s.streams.desks.take(); err != nil || s.streams.desks.made != 2 {
		t.Errorf("the next desk is %+v, %v, number %d; want the second", k, err, s.streams.desks.made)
	}
	unix.Close(null)
}

// A container that cannot be taken over is killed and reported, and nothing of it
// stays open.
func TestContainerIsGivenUp(t *testing.T) {
	for what, damage := range map[string]role{"its terminal": roleTerminal, "its process": roleProcess} {
		t.Run(what, func(t *testing.T) {
			cmd, pidfd := sleeper(t)
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
			dir, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			e, rec := anchor.Entry{ID: "c", PID: cmd.Process.Pid}, record{Key: 1, Start: wire.StartRequest{Stdin: true}}
			if damage == roleTerminal { // the pipe behind it is a directory
				e.Files, rec.Roles = []int{dir, p[1], pidfd}, []role{roleStdout, roleTerminal, roleProcess}
			} else {
				e.Files, rec.Roles = []int{p[1], dir}, []role{roleStdin, roleStdout}
				unix.Close(pidfd)
			}
			s := newTestServer(t, entryOf(t, e, rec))
			if list := s.list(); len(list) != 1 || list[0].Exit == nil || !list[0].Exit.Lost {
				t.Errorf("the container is %+v, want lost", list)
			}
			if damage == roleTerminal {
				if err := cmd.Wait(); err == nil {
					t.Error("its process ended by itself")
				}
			}
			closeAll(e.Files)
			for deadline := time.Now().Add(5 * time.Second); !hungUp(p[0]); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("a descriptor of it is still open")
				}
			}
			unix.Close(p[0])
		})
	}
}

// An acknowledgement that comes before the keeper has concluded what the one before
// it has seen is not forgotten.
func TestAcknowledgedBeforeConcluded(t *testing.T) {
	s := newTestServer(t)
	exit := &wire.Exit{ID: "c", Code: 3}
	entry, err := s.journal.Begin("exit", exit)
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer("c")
	c.hold = s.escrow.newHolding("c", record{})
	c.std = s.streams.newStdio(c.hold, s.log)
	close(c.std.drained)
	s.containers["c"] = c
	if err := s.acknowledge("c"); err != nil {
		t.Fatal(err)
	}
	s.conclude(c, exit, entry)
	if left := s.journal.Pending(); len(left) > 0 {
		t.Errorf("the next keeper tells of %s again", left[0].Data)
	}
	if list, _ := s.unacknowledged(0); len(list) > 0 {
		t.Error("this one tells of it again")
	}
}

// A program that an earlier keeper was executing is killed, also where its OCI runtime
// has come and gone unseen; and one that never began is not executed now.
func TestExecOfAnEarlierKeeper(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	rec := record{Exec: true, Start: wire.StartRequest{Command: wire.Command{Args: []string{"/bin/touch", ran}, Dir: dir, PIDFile: "pid"}}}
	s.endExec(s.escrow.newHolding(execID+"1", rec))
	if _, _, err := s.awaitStart(s.escrow.newHolding(execID+"2", rec)); err == nil {
		t.Error("what never began has started")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the program was executed for nobody")
	}
	cmd, pidfd := sleeper(t)
	unix.Close(pidfd)
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	s.endExec(s.escrow.newHolding(execID+"3", rec))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the program runs on")
	}
}

// An exit that could not be journalled when a start was lost is known to the next
// keeper as one that nobody has acknowledged.
func TestLostStartOnAFullDisk(t *testing.T) {
	s := newTestServer(t)
	if err := s.journal.Close(); err != nil {
		t.Fatal(err)
	}
	c := newContainer("c")
	c.hold = s.escrow.newHolding("c", record{Key: 1})
	c.std = s.streams.newStdio(c.hold, s.log)
	s.lose(c)
	left, ok := s.escrow.entries["c"]
	if !ok {
		t.Fatal("the anchor has nothing of it")
	}
	next := newTestServer(t, left)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		list, _ := next.unacknowledged(0)
		if len(list) == 1 && list[0].exit.Lost {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the next keeper tells of %d exits, want the lost one", len(list))
		}
	}
}
