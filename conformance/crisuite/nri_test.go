package crisuite_test

import (
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

// TestNRISocket: what a profile may say of it.
func TestNRISocket(t *testing.T) {
	started := crisuite.Target{Exec: []string{"runtime"}}
	running := crisuite.Target{Endpoint: "unix:///run/runtime.sock"}
	for name, c := range map[string]struct {
		target        crisuite.Target
		socket, lacks string
		want          string // "" means that it is taken
	}{
		"none":                       {started, "", "", ""},
		"said to have none":          {started, "", "nri", ""},
		"below the runtime's state":  {started, crisuite.Root + "/nri.sock", "", ""},
		"somewhere":                  {started, "/var/run/nri/nri.sock", "", ""},
		"of one that runs":           {running, "/var/run/nri/nri.sock", "", ""},
		"below a state of nobody's":  {running, crisuite.Root + "/nri.sock", "", "runs already"},
		"relative":                   {started, "nri.sock", "", "no absolute path"},
		"with two things to say":     {started, "/var/run/nri/nri.sock", "cdi, nri", "there is none"},
		"with a word that is not it": {started, "", "NRI", "is none of"},
	} {
		t.Run(name, func(t *testing.T) {
			profile := &conformance.Profile{Facts: map[string]string{"nri": c.socket, "lacks": c.lacks}}
			err := c.target.Declare(profile)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Declare: %v, want %q", err, c.want)
			}
		})
	}
}
