package cnisuite_test

import (
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

// TestFactsMisfit: a fact of another kind is told in the words of a profile.
func TestFactsMisfit(t *testing.T) {
	for facts, want := range map[string]string{
		"config: 7":            "fact config of the profile: want a mapping, not a JSON number",
		"config: '{'":          "fact config of the profile: want YAML keys, or JSON: ",
		"runtimeConfig: mac":   "fact runtimeConfig of the profile: want YAML keys, or JSON: ",
		"runtimeConfig: [mac]": "fact runtimeConfig of the profile: want a mapping, not a JSON array",
		"badConfigs: {a: b}":   "fact badConfigs of the profile: want a list, not a JSON object",
		"badConfigs: [7]":      "fact badConfigs of the profile: want a mapping, not a JSON number",
	} {
		p, err := conformance.ParseProfile([]byte("facts:\n  " + facts + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cnisuite.NewTarget("/bin/true", p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", facts, err, want)
		}
	}
}

// TestFactsWithoutValue: a fact that is begun and not written is no keys.
func TestFactsWithoutValue(t *testing.T) {
	for _, facts := range []string{"config:", "{config: null, runtimeConfig: null}", "exhaustible:", "badConfigs: [null]", "badConfigs:"} {
		if !strings.HasPrefix(facts, "{") {
			facts = "\n  " + facts
		}
		p, err := conformance.ParseProfile([]byte("facts: " + facts + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cnisuite.NewTarget("/bin/true", p); err != nil {
			t.Errorf("%s: %v", facts, err)
		}
	}
}
