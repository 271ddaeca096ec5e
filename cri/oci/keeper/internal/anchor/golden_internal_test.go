package anchor

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// packets are the bytes of every message of the line, by the version that has it. The
// anchor of a node is as old as the node's uptime, so one that is here never changes: a
// later version gets lines of its own behind them.
var packets = []struct {
	since  int
	packet string
	is     message
}{
	{1, `{"op":"put","entry":{"id":"c","starting":true,"data":{"key":1}}}`, message{Op: opPut, Entry: &Entry{ID: "c", Starting: true, Data: json.RawMessage(`{"key":1}`)}}},
	{1, `{"op":"put","entry":{"id":"c","pid":7}}`, message{Op: opPut, Entry: &Entry{ID: "c", PID: 7}}},
	{1, `{"op":"drop","entry":{"id":"c"}}`, message{Op: opDrop, Entry: &Entry{ID: "c"}}},
	{1, `{"op":"serving"}`, message{Op: opServing}},
	{1, `{"op":"program","program":"/new"}`, message{Op: opProgram, Program: "/new"}},
	{1, `{"op":"release"}`, message{Op: opRelease}},
	{1, `{"op":"peek","pid":7}`, message{Op: opPeek, PID: 7}},
	{1, `{"op":"peek","ended":true,"code":137}`, message{Op: opPeek, Ended: true, Code: 137}},
	{1, `{"op":"peek","gone":true}`, message{Op: opPeek, Gone: true}},
	{1, `{"op":"list"}`, message{Op: opList}},
	{1, `{"op":"list","entry":{"id":"c","pid":7}}`, message{Op: opList, Entry: &Entry{ID: "c", PID: 7}}},
	{2, `{"op":"list","version":2}`, message{Op: opList, Version: 2}},
	{2, `{"op":"kept","entry":{"id":"c"}}`, message{Op: opKept, Entry: &Entry{ID: "c"}}},
	{2, `{"op":"kept","entry":{"id":"c"},"kept":true}`, message{Op: opKept, Entry: &Entry{ID: "c"}, Kept: true}},
}

// TestLineStays: what either side sends, and makes of what it gets, is what it was in
// every version of the line.
func TestLineStays(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for _, p := range packets {
		if p.since > version {
			t.Errorf("%s is of version %d, which there is not", p.packet, p.since)
		}
		if err := send(pair[0], &p.is, nil); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, maxPacket)
		n, err := unix.Read(pair[1], buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(buf[:n]); got != p.packet {
			t.Errorf("version %d: %s is sent as %s", p.since, p.packet, got)
		}
		if _, err := unix.Write(pair[0], []byte(p.packet)); err != nil {
			t.Fatal(err)
		}
		m, _, err := receive(pair[1], buf)
		if err != nil {
			t.Fatalf("%s: %v", p.packet, err)
		}
		if diff := cmp.Diff(&p.is, m, cmpopts.IgnoreUnexported(message{})); diff != "" {
			t.Errorf("version %d: %s is understood as (-want +got):\n%s", p.since, p.packet, diff)
		}
	}
}
