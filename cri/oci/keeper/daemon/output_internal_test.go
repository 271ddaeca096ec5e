package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// A line that is longer than the pipe, written at once, is read to its end: the kernel
// says nothing of what a writer, who was waiting for room, adds to an unfinished line.
func TestLineLongerThanThePipe(t *testing.T) {
	s := newTestServer(t)
	want := bytes.Repeat([]byte("b"), 130_000)
	for i := range 200 {
		path := filepath.Join(t.TempDir(), "0.log")
		std, child := pumped(t, s, path)
		wrote := make(chan error, 1)
		go func() {
			_, err := child[1].Write(append(bytes.Clone(want), '\n'))
			wire.CloseAll(child[:])
			wrote <- err
		}()
		select {
		case <-std.drained:
		case <-time.After(10 * time.Second):
			t.Fatalf("line %d is not read to its end", i)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if got := lineIn(t, path); !bytes.Equal(got, want) {
			t.Fatalf("line %d has %d bytes, want %d", i, len(got), len(want))
		}
	}
}

// lineIn puts the only line of a log together.
func lineIn(t *testing.T, path string) (line []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for one := range bytes.Lines(content) {
		r, err := log.Parse(bytes.TrimSuffix(one, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		line = append(line, r.Content...)
	}
	return line
}

// An unfinished line stays in the pipe until its end comes, but for one behind so much
// that somebody may wait for room.
func TestUnfinishedLineAfterABurst(t *testing.T) {
	s := newTestServer(t)
	path := filepath.Join(t.TempDir(), "0.log")
	std, child := pumped(t, s, path)
	write := func(n int) {
		if _, err := child[1].Write(bytes.Repeat([]byte("b"), n)); err != nil {
			t.Fatal(err)
		}
	}
	write(1000)
	time.Sleep(5 * crowdStay)
	if got := lineIn(t, path); len(got) > 0 {
		t.Errorf("%d bytes without an end are in the log", len(got))
	}
	write(59_000)
	for deadline := time.Now().Add(5 * time.Second); len(lineIn(t, path)) < 60_000; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are in the log, and 60000 were written", len(lineIn(t, path)))
		}
	}
	wire.CloseAll(child[:])
	<-std.drained
}

// A writer that has left a line unfinished and then writes more than the pipe holds is read
// to its end, though the kernel announces nothing of what it adds.
func TestLongWriteAfterAnUnfinishedLine(t *testing.T) {
	s := newTestServer(t)
	for _, pause := range []time.Duration{0, 5 * firstLook, lineStay + 20*firstLook} {
		path := filepath.Join(t.TempDir(), "0.log")
		std, child := pumped(t, s, path)
		wrote := make(chan error, 1)
		go func() {
			_, err := child[1].WriteString("unfinished ")
			time.Sleep(pause)
			if err == nil {
				_, err = child[1].Write(append(bytes.Repeat([]byte("b"), 200_000), '\n'))
			}
			wire.CloseAll(child[:])
			wrote <- err
		}()
		select {
		case err := <-wrote:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("after %v the writer waits for ever", pause)
		}
		<-std.drained
		want := append([]byte("unfinished "), bytes.Repeat([]byte("b"), 200_000)...)
		if got := lineIn(t, path); !bytes.Equal(got, want) {
			t.Errorf("after %v the line has %d bytes, want %d", pause, len(got), len(want))
		}
	}
}

// An output that always has more does not keep the other one from being read.
func TestOutputsTakeTurns(t *testing.T) {
	s := newTestServer(t)
	path := filepath.Join(t.TempDir(), "0.log")
	std := s.streams.newStdio(s.escrow.newHolding("c", record{Start: wire.StartRequest{Log: path}}), s.log)
	child, err := std.open()
	if err != nil {
		t.Fatal(err)
	}
	size, err := unix.FcntlInt(uintptr(std.outputs[0].fd), unix.F_SETPIPE_SZ, 1<<20)
	if err != nil || size < 2*turn*pieceSize {
		t.Fatalf("the pipe holds %d bytes: %v", size, err)
	}
	line := strings.Repeat("b", 127) + "\n"
	if _, err := child[1].WriteString(strings.Repeat(line, size/len(line))); err != nil {
		t.Fatal(err)
	}
	if _, err := child[2].WriteString("meanwhile\n"); err != nil {
		t.Fatal(err)
	}
	if err := std.pump(); err != nil {
		t.Fatal(err)
	}
	wire.CloseAll(child[:])
	<-std.drained
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(content), " stderr F meanwhile\n")
	if !found || strings.Count(before, line)+strings.Count(after, line) != size/len(line) {
		t.Error("output is missing")
	}
	if strings.Count(after, line) == 0 {
		t.Error("stderr was read when stdout had no more")
	}
}

// pumped returns the streams of a container with that log, which are read already, and the
// container's ends.
func pumped(t *testing.T, s *server, path string) (*stdio, childFiles) {
	t.Helper()
	std := s.streams.newStdio(s.escrow.newHolding("c", record{Start: wire.StartRequest{Log: path}}), s.log)
	child, err := std.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := std.pump(); err != nil {
		t.Fatal(err)
	}
	return std, child
}
