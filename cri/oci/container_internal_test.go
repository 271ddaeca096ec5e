package oci

import (
	"encoding/json"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestContainerState: the state that any earlier version wrote is read as that version
// meant it, and that of a later version is refused.
func TestContainerState(t *testing.T) {
	r := &Runtime{cfg: Config{RunDir: "/run/x"}, engines: map[string]engine{"": {path: "/chosen", root: "/run/x/runtime"}}}
	for text, want := range map[string]containerState{
		``: {Engine: "/chosen", StopSignal: int(unix.SIGTERM)},
		`{"version":1,"engine":"/e","stopSignal":2}`:                 {Version: 1, Engine: "/e", StopSignal: 2},
		`{"version":2,"engine":"/e","stopSignal":2,"poststop":true}`: {Version: 2, Engine: "/e", StopSignal: 2, Poststop: true},
		`{"version":3,"engine":"/e","stopSignal":2,"restored":true}`: {Version: 3, Engine: "/e", StopSignal: 2, Restored: true},
	} {
		c := &cri.Container{ID: "c", Dir: "/state/c", Sandbox: &cri.Sandbox{ID: "s"}, State: json.RawMessage(text)}
		e, st, err := r.engineOf(c)
		if err != nil || st != want || e.path != want.Engine || e.root != "/run/x/runtime" {
			t.Errorf("%s: %+v of %+v, %v", text, st, e, err)
		}
		bundle := "/run/x/sandboxes/s/bundle-c"
		if want.Version == 1 {
			bundle = "/state/c/bundle"
		}
		if got := r.bundleOf(c); got != bundle {
			t.Errorf("%s: the bundle is %q, want %q", text, got, bundle)
		}
	}
	if _, _, err := r.engineOf(&cri.Container{ID: "c", State: json.RawMessage(`{"version":4,"engine":"/e"}`)}); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("version 4: %v", err)
	}
	if _, _, err := r.engineOf(&cri.Container{ID: "c", State: json.RawMessage(`{`)}); err == nil {
		t.Error("what is no state is read")
	}
}
