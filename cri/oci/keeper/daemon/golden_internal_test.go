package daemon

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// TestRecordStays: the data of an entry, which keepers of other versions read, is what it
// was. A field more gets a line of its own; the lines that are here stay.
func TestRecordStays(t *testing.T) {
	for text, is := range map[string]record{
		`{"key":5,"start":{"command":{"args":["/r"],"dir":"/b","pidFile":"pid"},"log":"/log"},"run":9,"roles":["stdout","stderr","runtime","console"]}`: {
			Key: 5, Run: 9, Roles: []role{roleStdout, roleStderr, roleRuntime, roleConsole},
			Start: wire.StartRequest{Command: wire.Command{Args: []string{"/r"}, Dir: "/b", PIDFile: "pid"}, Log: "/log"},
		},
		`{"key":5,"start":{"command":{"args":null,"dir":""},"log":"/logs/c/0.log","logDir":"/logs"},"roles":["log"]}`: {
			Key: 5, Start: wire.StartRequest{Log: "/logs/c/0.log", LogDir: "/logs"}, Roles: []role{roleLog},
		},
		`{"key":5,"start":{"command":{"args":null,"dir":""},"stdin":true,"stdinOnce":true},"oom":2,"attached":true,"roles":["stdin","terminal","log","process"]}`: {
			Key: 5, OOM: 2, Attached: true, Start: wire.StartRequest{Stdin: true, StdinOnce: true}, Roles: []role{roleStdin, roleTerminal, roleLog, roleProcess},
		},
		`{"key":5,"start":{"command":{"args":null,"dir":""}},"exec":true}`: {Key: 5, Exec: true},
		`{"key":5,"start":{"command":{"args":null,"dir":""}},"exit":{"id":"c","code":137,"at":"2026-11-28T01:02:03Z","oom":true},"sole":true}`: {
			Key: 5, Sole: true, Exit: &wire.Exit{ID: "c", Code: 137, OOM: true, At: time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)},
		},
	} {
		if got, err := json.Marshal(is); err != nil || string(got) != text {
			t.Errorf("%s is written as %s, %v", text, got, err)
		}
		var got record
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(is, got); diff != "" {
			t.Errorf("%s is understood as (-want +got):\n%s", text, diff)
		}
	}
}
