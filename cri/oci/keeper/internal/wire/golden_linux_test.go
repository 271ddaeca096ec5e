package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// The files testdata/protocolN.txt hold the bytes of every message of protocol N, a line
// each: a name, and the bytes as Go quotes them. A server and a keeper that were built at
// different times speak by these, so a line that is there never changes: a test that fails
// for one has found that the other side would not be understood.
//
// A new message, or a field more in one, gets a sample below, with the version that has it
// (its number is Protocol's, and higher than those before unless no release has that yet).
// The test says which lines the file of that version lacks; a new version's file begins
// with all lines of the one before.

// sample is a message, or a frame of an attached connection.
type sample struct {
	since   int
	message any // *Request or *Reply; nil for a frame
	kind    byte
	payload string
}

var (
	score   = -5
	command = &Command{Args: []string{"/usr/bin/runc", "run"}, Dir: "/run/b", PIDFile: "pid", Console: "tty", OOMScoreAdj: &score}
	viewed  = &Command{Args: []string{"/usr/bin/crun", "run"}, Dir: "/run/b", PIDFile: "pid", View: &View{Mounts: []string{"/run/s"}, Above: "/run", Paths: []string{"/h"}}}
	at      = time.Date(2026, 11, 28, 1, 2, 3, 456789, time.UTC)
)

var samples = map[string]sample{
	"hello":        {since: 1, message: &Request{Version: 1, Op: OpHello}},
	"start":        {since: 1, message: &Request{Version: 1, Op: OpStart, ID: "c", Start: &StartRequest{Command: *command, Log: "/log", Stdin: true, StdinOnce: true, OOMFile: "/oom"}}},
	"start-bare":   {since: 1, message: &Request{Version: 1, Op: OpStart, ID: "c", Start: &StartRequest{Command: Command{Args: []string{"/r"}, Dir: "/", PIDFile: "pid"}}}},
	"start-below":  {since: 2, message: &Request{Version: 1, Op: OpStart, ID: "c", Start: &StartRequest{Command: *command, Log: "/logs/c/0.log", LogDir: "/logs"}}},
	"start-view":   {since: 2, message: &Request{Version: 1, Op: OpStart, ID: "c", Start: &StartRequest{Command: *viewed}}}, // earlier keepers pass it over
	"runtime":      {since: 1, message: &Request{Version: 1, Op: OpRuntime, Command: &Command{Args: []string{"/r"}, Dir: "/"}}},
	"signal":       {since: 1, message: &Request{Version: 1, Op: OpSignal, ID: "c", Signal: 15}},
	"signal-await": {since: 2, message: &Request{Version: 1, Op: OpSignal, ID: "c", Signal: 9, Await: 100}}, // earlier keepers pass it over
	"wait":         {since: 1, message: &Request{Version: 1, Op: OpWait, ID: "c"}},
	"list":         {since: 1, message: &Request{Version: 1, Op: OpList}},
	"watch":        {since: 1, message: &Request{Version: 1, Op: OpWatch}},
	"ack":          {since: 1, message: &Request{Version: 1, Op: OpAck, ID: "c"}},
	"remove":       {since: 1, message: &Request{Version: 1, Op: OpRemove, ID: "c"}},
	"reopen":       {since: 1, message: &Request{Version: 1, Op: OpReopen, ID: "c"}},
	"exec":         {since: 1, message: &Request{Version: 1, Op: OpExec, Command: command}},
	"attach":       {since: 1, message: &Request{Version: 1, Op: OpAttach, ID: "c", Attach: &AttachRequest{Stdin: true}}},
	"shutdown":     {since: 1, message: &Request{Version: 1, Op: OpShutdown}},
	"replace":      {since: 2, message: &Request{Version: 2, Op: OpReplace, Program: "/new"}},

	"re-nothing":       {since: 1, message: &Reply{}},
	"re-error":         {since: 1, message: &Reply{Kind: fault.NotFound, Error: "no container"}},
	"re-hello":         {since: 1, message: &Reply{Hello: &Hello{Protocol: 1, PID: 7}}},
	"re-hello-anchor":  {since: 2, message: &Reply{Hello: &Hello{Protocol: 2, PID: 7, Anchor: 6}}},
	"re-status":        {since: 1, message: &Reply{Status: &Status{ID: "c", PID: 8}}},
	"re-list":          {since: 1, message: &Reply{List: []Status{{ID: "c", PID: 8}, {ID: "d", Exit: &Exit{ID: "d", Code: 137, At: at, OOM: true}}}}},
	"re-list-starting": {since: 2, message: &Reply{List: []Status{{ID: "c", Starting: true}}}},
	"re-exit":          {since: 1, message: &Reply{Exit: &Exit{ID: "c", Code: 3, At: at}}},
	"re-exit-lost":     {since: 2, message: &Reply{Exit: &Exit{ID: "c", Code: 137, At: at, Lost: true}}},

	"frame-stdin":       {since: 1, kind: FrameStdin, payload: "in\n"},
	"frame-stdin-close": {since: 1, kind: FrameStdinClose},
	"frame-resize":      {since: 1, kind: FrameResize, payload: "\x00\x50\x00\x18"},
	"frame-stdout":      {since: 1, kind: FrameStdout, payload: "out\n"},
	"frame-stderr":      {since: 1, kind: FrameStderr, payload: "err\n"},
	"frame-fault":       {since: 1, kind: FrameFault, payload: "too slow"},
	"frame-end":         {since: 1, kind: FrameEnd},
}

// golden reads the file of a version.
func golden(t *testing.T, version int) map[string]string {
	t.Helper()
	file := filepath.Join("testdata", fmt.Sprintf("protocol%d.txt", version))
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, quoted, _ := strings.Cut(strings.TrimSpace(line), " ")
		if lines[name], err = strconv.Unquote(quoted); err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
	}
	return lines
}

// pair returns two ends of a connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// sent are the bytes of the message.
func (m sample) sent(t *testing.T) string {
	t.Helper()
	if m.message == nil {
		var b bytes.Buffer
		if err := WriteFrame(&b, m.kind, []byte(m.payload)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	a, b := pair(t)
	if err := errors.Join(Send(a, m.message), a.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// understood is what is made of bytes that come as the message should.
func (m sample) understood(t *testing.T, text string) sample {
	t.Helper()
	got := m
	if m.message == nil {
		kind, payload, err := ReadFrame(strings.NewReader(text), make([]byte, MaxFrame))
		if err != nil {
			t.Fatal(err)
		}
		got.kind, got.payload = kind, string(payload)
		return got
	}
	a, b := pair(t)
	if _, err := io.WriteString(a, text); err != nil {
		t.Fatal(err)
	}
	got.message = reflect.New(reflect.TypeOf(m.message).Elem()).Interface()
	if _, err := Receive(b, got.message); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestProtocolStays: what this program sends, and what it makes of what it gets, is what
// it was in every version of the protocol.
func TestProtocolStays(t *testing.T) {
	for version := 1; version <= Protocol; version++ {
		lines := golden(t, version)
		for name, text := range lines {
			m, ok := samples[name]
			if !ok {
				t.Errorf("protocol %d has a message %q, of which there is no sample", version, name)
				continue
			}
			if got := m.sent(t); got != text {
				t.Errorf("protocol %d: %s is sent as\n%q, and was\n%q", version, name, got, text)
			}
			if diff := cmp.Diff(m, m.understood(t, text), cmp.AllowUnexported(sample{})); diff != "" {
				t.Errorf("protocol %d: %s is understood as (-want +got):\n%s", version, name, diff)
			}
		}
		for name, m := range samples {
			if _, ok := lines[name]; !ok && m.since <= version {
				t.Errorf("testdata/protocol%d.txt lacks the line\n%s %s", version, name, strconv.Quote(m.sent(t)))
			}
		}
	}
	for name := range golden(t, Protocol+1) {
		t.Errorf("%s is of a protocol after %d", name, Protocol)
	}
}

// TestSamplesHaveEveryField, so that none is added without a line.
func TestSamplesHaveEveryField(t *testing.T) {
	set := map[string]bool{}
	var note func(v reflect.Value)
	note = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				note(v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				note(v.Index(i))
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for i := range v.NumField() {
				name := v.Type().Name() + "." + v.Type().Field(i).Name
				set[name] = set[name] || !v.Field(i).IsZero()
				note(v.Field(i))
			}
		}
	}
	for _, m := range samples {
		if m.message != nil {
			note(reflect.ValueOf(m.message))
		}
	}
	for name, is := range set {
		if !is {
			t.Errorf("no sample has the field %s", name)
		}
	}
}
