package class_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/class"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = t.TempDir() + "/classes.yaml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func load(t *testing.T, text string, log *slog.Logger) *class.BlockIO {
	t.Helper()
	b, err := class.LoadBlockIO(write(t, text), log)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantError checks the kind of an error, and that it says what its reader needs.
func wantError(t *testing.T, err error, kind fault.Kind, texts ...string) {
	t.Helper()
	if fault.Of(err) != kind {
		t.Errorf("the error %v is of kind %q, want %q", err, fault.Of(err), kind)
	}
	for _, text := range texts {
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q does not say %q", err, text)
		}
	}
}

var discard = slog.New(slog.DiscardHandler)

// TestBlockIOParameters: all that a class can have reaches the spec, for a device by
// the numbers that it has when it is asked for.
func TestBlockIOParameters(t *testing.T) {
	testenv.Require(t, testenv.Root) // to make a device node, which is not opened
	dir := t.TempDir()
	node := func(minor uint32) {
		t.Helper()
		_ = os.Remove(dir + "/disk1")
		if err := unix.Mknod(dir+"/disk1", unix.S_IFBLK|0o600, int(unix.Mkdev(7, minor))); err != nil {
			t.Fatal(err)
		}
	}
	node(201)
	b := load(t, `
Classes:
  slow:
    - Weight: 80
    - Devices: ["`+dir+`/disk*"]
      ThrottleReadBps: 1M
      ThrottleWriteBps: 2M
      ThrottleReadIOPS: 3k
      ThrottleWriteIOPS: 4
      Weight: 50
  free: []
`, discard)
	for _, minor := range []int64{201, 202} { // the second time it is another device
		node(uint32(minor))
		rate := func(n uint64) []specs.LinuxThrottleDevice {
			d := specs.LinuxThrottleDevice{Rate: n}
			d.Major, d.Minor = 7, minor
			return []specs.LinuxThrottleDevice{d}
		}
		all, one := uint16(80), uint16(50)
		weight := specs.LinuxWeightDevice{Weight: &one}
		weight.Major, weight.Minor = 7, minor
		want := &specs.LinuxBlockIO{
			Weight: &all, WeightDevice: []specs.LinuxWeightDevice{weight},
			ThrottleReadBpsDevice: rate(1e6), ThrottleWriteBpsDevice: rate(2e6), ThrottleReadIOPSDevice: rate(3e3), ThrottleWriteIOPSDevice: rate(4),
		}
		got, err := b.Parameters("slow")
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("the class gives (%v), -want +got:\n%s", err, d)
		}
	}
	got, err := b.Parameters("free")
	if d := cmp.Diff(&specs.LinuxBlockIO{}, got); err != nil || d != "" {
		t.Errorf("a class without limits gives (%v), -want +got:\n%s", err, d)
	}
}

// TestBlockIONotThere: who asks for a class that is not there learns which are, or
// how there come to be any.
func TestBlockIONotThere(t *testing.T) {
	none, err := class.LoadBlockIO("", discard)
	if err != nil || len(none.Names()) != 0 {
		t.Fatalf("no file: %v with the classes %v", err, none.Names())
	}
	_, err = none.Parameters("slow")
	wantError(t, err, fault.FailedPrecondition, `"slow"`, "--blockio-config-file")
	file := write(t, "Classes: {fast: [{Weight: 900}], even: []}")
	b, err := class.LoadBlockIO(file, discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Parameters("slow")
	wantError(t, err, fault.Invalid, `"slow"`, `"even", "fast"`, file)
	_, err = load(t, "", discard).Parameters("slow")
	wantError(t, err, fault.Invalid, `"slow"`, "none")
}

// TestBlockIOMistakes are found when the file is read.
func TestBlockIOMistakes(t *testing.T) {
	for name, tc := range map[string]struct{ text, says string }{
		"no YAML":                 {"a\nb: c", "not valid YAML"},
		"an unknown field":        {"Classes: {slow: [{Wait: 80}]}", `"Wait"`},
		"a weight out of range":   {"Classes: {slow: [{Weight: 5}]}", `"slow"`},
		"no number":               {"Classes: {slow: [{Weight: much}]}", `"slow"`},
		"a limit of no device":    {"Classes: {good: [], slow: [{ThrottleReadBps: 1M}]}", `"slow"`},
		"a limit below zero":      {"Classes: {slow: [{Devices: [/dev/null], ThrottleReadBps: -1M}]}", `"slow"`},
		"a class of another sort": {"Classes: [slow]", `key "Classes" is a list: want a mapping`},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, tc.text)
			_, err := class.LoadBlockIO(file, discard)
			wantError(t, err, fault.Invalid, file, tc.says)
		})
	}
	_, err := class.LoadBlockIO("/no/such/file", discard)
	wantError(t, err, fault.FailedPrecondition, "/no/such/file")
}

// TestBlockIONoDevice: a device that the machine does not have is no mistake, and
// the log of the runtime says so, and of which class.
func TestBlockIONoDevice(t *testing.T) {
	var log bytes.Buffer
	b := load(t, "Classes: {slow: [{Devices: [/dev/no-such-disk*], ThrottleReadBps: 1M}]}", slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 { // when the file is read, and when a container is made
		if !strings.Contains(log.String(), "class=slow") || !strings.Contains(log.String(), "no-such-disk") {
			t.Errorf("the log says nothing of the device:\n%s", log.String())
		}
		log.Reset()
		got, err := b.Parameters("slow")
		if d := cmp.Diff(&specs.LinuxBlockIO{}, got); err != nil || d != "" {
			t.Errorf("without its device the class gives (%v), -want +got:\n%s", err, d)
		}
	}
}

// TestBlockIOOfTwoRuntimes: a class is not looked up while another runtime in the
// process looks up one of the same name, for the library would mix the two.
func TestBlockIOOfTwoRuntimes(t *testing.T) {
	const text = "Classes: {one: [{Weight: %d}, {Devices: [/dev/no-such-disk], Weight: 50}]}"
	var first, second onLog
	a := load(t, fmt.Sprintf(text, 100), slog.New(&first))
	b := load(t, fmt.Sprintf(text, 200), slog.New(&second))
	weigh := func(b *class.BlockIO, want uint16) {
		got, err := b.Parameters("one")
		if err != nil || got.Weight == nil || *got.Weight != want {
			t.Errorf("the class gives %v, %v; want the weight %d", got, err, want)
		}
	}
	entered, done := make(chan struct{}), make(chan struct{})
	second.do = sync.OnceFunc(func() { close(entered) })
	first.do = sync.OnceFunc(func() { // in the midst of looking up the first
		go func() { defer close(done); weigh(b, 200) }()
		select {
		case <-entered:
			t.Error("a second class is looked up before the first is")
		case <-time.After(100 * time.Millisecond): // it waits, or has not come so far, which is not seen
		}
	})
	weigh(a, 100)
	<-done
}

// onLog is a log that does something when a line comes.
type onLog struct{ do func() }

func (*onLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *onLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *onLog) WithGroup(string) slog.Handler          { return l }

func (l *onLog) Handle(context.Context, slog.Record) error {
	if l.do != nil {
		l.do()
	}
	return nil
}
