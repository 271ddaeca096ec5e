package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// descendant is a container that has ended, and something that it has left and that
// holds its output open.
type descendant struct {
	t      *testing.T
	s      *server
	c      *container
	log    string
	stdout *os.File
}

func newDescendant(t *testing.T) *descendant {
	t.Helper()
	s := newTestServer(t)
	c, log := newContainer("c"), filepath.Join(t.TempDir(), "log")
	c.hold = s.escrow.newHolding("c", record{Key: 1, Start: wire.StartRequest{Log: log}})
	c.std = s.streams.newStdio(c.hold, s.log)
	child, err := c.std.open()
	if err != nil {
		t.Fatal(err)
	}
	wire.CloseAll([]*os.File{child[0], child[2]})
	d := &descendant{t: t, s: s, c: c, log: log, stdout: child[1]}
	t.Cleanup(func() {
		d.stdout.Close()
		<-c.std.drained
	})
	if err := c.std.pump(); err != nil {
		t.Fatal(err)
	}
	s.containers["c"] = c
	return d
}

func (d *descendant) write(text string) {
	d.t.Helper()
	if _, err := d.stdout.WriteString(text); err != nil {
		d.t.Fatal(err)
	}
}

// text is what the log has, without the times.
func (d *descendant) text() string {
	d.t.Helper()
	log, err := os.ReadFile(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	var text strings.Builder
	for line := range bytes.Lines(log) {
		_, rest, _ := bytes.Cut(line, []byte(" "))
		text.Write(rest)
	}
	return text.String()
}

func (d *descendant) size() int64 {
	d.t.Helper()
	st, err := os.Stat(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	return st.Size()
}

// busy has the log's disk not answer until the function that it returns is called.
func (d *descendant) busy() (answer func()) {
	<-d.c.std.log.mine
	return func() { d.c.std.log.mine <- struct{}{} }
}

func (d *descendant) ends() {
	go d.s.conclude(d.c, &wire.Exit{ID: "c", Code: 3}, 0)
}

// TestEndWaitsForTheLog: whoever hears of the end finds all in the log that was written
// before it, an unfinished line too, however long the disk takes and though something
// holds the output open and writes on.
func TestEndWaitsForTheLog(t *testing.T) {
	d := newDescendant(t)
	answer := d.busy()
	d.write("one\ntwo\nunfin")
	d.ends()
	select {
	case <-d.c.ended:
		t.Errorf("the end was told when the log was %q", d.text())
	case <-time.After(2 * drainLimit):
	}
	answer()
	<-d.c.ended
	const want = "stdout F one\nstdout F two\nstdout P unfin\n"
	if got := d.text(); got != want {
		t.Errorf("at the end the log is %q, want %q", got, want)
	}
	d.write("ished\n")
	for late := time.Now().Add(10 * time.Second); d.text() != want+"stdout F ished\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("what was written behind the end is not in the log: %q", d.text())
		}
	}
}

// TestEndOfOneWhoWritesOn: output that never stops does not hold the end back.
func TestEndOfOneWhoWritesOn(t *testing.T) {
	d := newDescendant(t)
	for range 3 { // so many that the pipe is hardly ever empty
		cmd := exec.Command("yes", strings.Repeat("another's ", 400))
		cmd.Stdout = d.stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}()
	}
	for d.size() < 100<<10 {
		time.Sleep(time.Millisecond)
	}
	begin := time.Now()
	d.s.awaitLog(d.c)
	if took := time.Since(begin); took >= logLimit {
		t.Errorf("the log was waited for for %v", took)
	}
}

// TestWhatIsOwed: the worker turns to those who ask as soon as it can, and for them goes
// no further than it must. Here the test is the worker.
func TestWhatIsOwed(t *testing.T) {
	d := newDescendant(t)
	std := d.c.std
	std.mu.Lock()
	for std.working { // the first one has found nothing
		std.mu.Unlock()
		time.Sleep(time.Millisecond)
		std.mu.Lock()
	}
	std.working = true
	std.mu.Unlock()
	o := std.outputs[0]
	d.write("mine\n")
	if !std.goesOn(o) {
		t.Error("nobody asks, and there is no more to read")
	}
	logged := std.logged()
	if std.goesOn(o) {
		t.Error("somebody asks, and there is more to read first")
	}
	std.reckon()
	const others = 60 << 10 // more than one look sees
	d.write(strings.Repeat("another's\n", others/10))
	std.drain(o)
	std.settle()
	select {
	case <-logged:
	default:
		t.Errorf("%d bytes are owed still", o.owed)
	}
	if got := d.text(); !strings.HasPrefix(got, "stdout F mine\n") || held(o.fd) == 0 {
		t.Errorf("the log begins with %.40q, and %d bytes were left for later", got, held(o.fd))
	}
	std.setWorking(false)
	std.wake()
}

// TestEndWithADiskThatDoesNotAnswer: the end is told at last, and what was late comes.
func TestEndWithADiskThatDoesNotAnswer(t *testing.T) {
	d := newDescendant(t)
	answer := d.busy()
	d.write("late\n")
	d.ends()
	<-d.c.ended
	answer()
	for late := time.Now().Add(10 * time.Second); d.text() != "stdout F late\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("the log is %q", d.text())
		}
	}
}

// TestRemovalLosesNothing: what a container has written is in its log also when the
// container was removed before its disk answered.
func TestRemovalLosesNothing(t *testing.T) {
	d := newDescendant(t)
	answer := d.busy()
	const first = "one\n"
	d.write(first)
	for held(d.c.std.outputs[0].fd) == 0 { // what was announced is not moved before the disk answers
		time.Sleep(time.Millisecond)
	}
	d.write(strings.Repeat("more\n", 5000) + "unfin")
	d.c.std.close()
	answer()
	<-d.c.std.drained
	want := "stdout F one\n" + strings.Repeat("stdout F more\n", 5000) + "stdout P unfin\n"
	if got := d.text(); got != want {
		t.Errorf("the log has %d bytes and ends with %q; want %d bytes", len(got), got[max(0, len(got)-40):], len(want))
	}
	if _, err := d.stdout.WriteString("too late"); err == nil {
		t.Error("somebody reads on")
	}
}

// kept are the ids of what the anchor has of containers.
func (s *server) kept() (ids []string) {
	s.escrow.mu.Lock()
	defer s.escrow.mu.Unlock()
	for id := range s.escrow.entries {
		if !strings.HasPrefix(id, " ") || strings.HasPrefix(id, removedID) {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestRemovedIsKept: the anchor has the streams of a container that was removed until all
// of its output is in its log, under another id: there may be one of its own again.
func TestRemovedIsKept(t *testing.T) {
	d := newDescendant(t)
	answer := d.busy()
	d.write("late\n")
	d.s.publish(d.c, &wire.Exit{ID: "c", Code: 3}, 0)
	if err := d.s.remove("c"); err != nil {
		t.Fatal(err)
	}
	if ids := d.s.kept(); len(ids) != 1 || !strings.HasPrefix(ids[0], removedID) {
		t.Errorf("the anchor has %q, want what is left of the container", ids)
	}
	answer()
	<-d.c.std.drained
	if got := d.text(); got != "stdout F late\n" {
		t.Errorf("the log is %q", got)
	}
	for late := time.Now().Add(10 * time.Second); len(d.s.kept()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("the anchor has %q still", d.s.kept())
		}
	}
}

// TestSoleExitIsForgotten: an exit that could not be journalled, and that the server has now,
// takes no output along that is not in the log yet.
func TestSoleExitIsForgotten(t *testing.T) {
	d := newDescendant(t)
	answer := d.busy()
	d.write("late\n")
	exit := &wire.Exit{ID: "c", Code: 3}
	if err := d.c.hold.change(func(h *content) { h.rec.Exit, h.rec.Sole = exit, true }); err != nil {
		t.Fatal(err)
	}
	d.s.publish(d.c, exit, 0)
	if err := d.s.ack(d.c); err != nil {
		t.Fatal(err)
	}
	if ids := d.s.kept(); len(ids) != 1 {
		t.Errorf("the anchor has %q, want the container", ids)
	}
	d.s.escrow.mu.Lock()
	data := string(d.s.escrow.entries["c"].Data)
	d.s.escrow.mu.Unlock()
	if strings.Contains(data, `"sole"`) {
		t.Errorf("the next keeper would tell of the exit again, for it has %s", data)
	}
	answer()
	d.stdout.Close()
	<-d.c.std.drained
	if ids := d.s.kept(); len(ids) != 0 {
		t.Errorf("in the end the anchor has %q", ids)
	}
}

// leftOutput is an entry with a line in a pipe that is in no log yet.
func leftOutput(t *testing.T, id, log string) anchor.Entry {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]) })
	if _, err := unix.Write(p[1], []byte("late\n")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(p[1]); err != nil {
		t.Fatal(err)
	}
	fd, err := logPlace{path: log}.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return entryOf(t, anchor.Entry{ID: id, Files: []int{p[0], fd}}, record{
		Key: 1, Start: wire.StartRequest{Log: log}, Roles: []role{roleStdout, roleLog}, Exit: &wire.Exit{ID: "c", Code: 3},
	})
}

// TestRemovedIsFinished: what a keeper has left of a container that was removed comes into
// its log, and no container comes back by that. One of which its removal was interrupted,
// so that it is there twice, is read once.
func TestRemovedIsFinished(t *testing.T) {
	for name, ids := range map[string][]string{"removed": {removedID + "1"}, "interrupted": {removedID + "1", "c"}} {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			var entries []anchor.Entry
			for _, id := range ids {
				entries = append(entries, leftOutput(t, id, log))
			}
			s := newTestServer(t, entries...)
			for late := time.Now().Add(10 * time.Second); len(s.kept()) > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(late) {
					t.Fatalf("the anchor has %q still", s.kept())
				}
			}
			if text, err := os.ReadFile(log); err != nil || strings.Count(string(text), "stdout F late\n") != 1 {
				t.Errorf("the log is %q, %v; want the line in it once", text, err)
			}
			if got := len(s.list()); got != len(ids)-1 {
				t.Errorf("there are %d containers, want %d", got, len(ids)-1)
			}
		})
	}
}

// TestTerminalOfOneThatEnded: what is still in a terminal belongs to what was written.
func TestTerminalOfOneThatEnded(t *testing.T) {
	s := newTestServer(t)
	c, log := newContainer("c"), filepath.Join(t.TempDir(), "log")
	c.hold = s.escrow.newHolding("c", record{Key: 1, Start: wire.StartRequest{Log: log}})
	c.std = s.streams.newStdio(c.hold, s.log)
	child, err := c.std.open()
	wire.CloseAll(child[:])
	if err != nil {
		t.Fatal(err)
	}
	master, slave := terminal(t)
	if err := c.std.useTerminal(master); err != nil {
		t.Fatal(err)
	}
	d := &descendant{t: t, s: s, c: c, log: log, stdout: slave}
	if err := c.std.pump(); err != nil {
		t.Fatal(err)
	}
	answer := d.busy()
	d.write(strings.Repeat("line\n", 1000) + "unfin")
	d.ends()
	select {
	case <-c.ended:
		t.Errorf("the end was told when the log was %q", d.text())
	case <-time.After(2 * drainLimit):
	}
	answer()
	<-c.ended
	want := strings.Repeat("stdout F line\n", 1000) + "stdout P unfin\n"
	if got := strings.ReplaceAll(d.text(), "\r", ""); got != want {
		t.Errorf("the log has %d bytes and ends with %q; want %d bytes", len(got), got[max(0, len(got)-40):], len(want))
	}
	slave.Close()
	<-c.std.drained
}

// terminal returns both ends of a new one.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(filepath.Join("/dev/pts", strconv.Itoa(n)), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "terminal"), slave
}
