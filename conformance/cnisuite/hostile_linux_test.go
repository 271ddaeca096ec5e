package cnisuite_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// hostiles are plugins that make the suite's work hard.
func hostiles() map[string]func() int {
	return map[string]func() int{
		"mute": raw(func(x *exchange) (string, int) {
			if x.command() != "VERSION" {
				return x.good()
			}
			f, err := os.OpenFile(asked(os.Args[0]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err == nil {
				_, _ = f.WriteString(".")
				f.Close()
			}
			return "", 1
		}),
		"takes-the-lab-away": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if x.command() == "ADD" {
				lab := filepath.Dir(x.env["CNI_NETNS"])
				_ = unix.Unmount(filepath.Join(lab, "host"), unix.MNT_DETACH)
				_ = os.RemoveAll(lab)
			}
			return out, rc
		}),
	}
}

// asked is where a plugin notes how often it was asked for its versions.
func asked(binary string) string { return filepath.Join(filepath.Dir(binary), "asked") }

// TestMute has a plugin asked for its versions once, not by each rule: one that hangs
// there would cost every rule its time.
func TestMute(t *testing.T) {
	testenv.Require(t, testenv.Root)
	of := target(t, "mute")
	report, err := cnisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CNI-ADD-001", "CNI-DEL-00[135]"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range report.Results {
		if result.Status != conformance.Pass {
			t.Errorf("%s: %s: %s", result.ID, result.Status, result.Message)
		}
	}
	if calls, err := os.ReadFile(asked(of.Binary)); err != nil || len(calls) != 1 {
		t.Errorf("%d VERSION calls (%v), want one", len(calls), err)
	}
}

func TestLabTakenAway(t *testing.T) {
	testenv.Require(t, testenv.Root)
	report, err := cnisuite.Suite().Run(t.Context(), target(t, "takes-the-lab-away"), &conformance.Options{Only: []string{"CNI-DEL-001"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Result("CNI-DEL-001"); got.Status != conformance.Fail || !strings.Contains(got.Message, "took the suite's own things away") {
		t.Errorf("%s: %s, want a failure that says what is gone", got.Status, got.Message)
	}
}
