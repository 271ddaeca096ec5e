package yamlfile_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/yamlfile"
)

type limit struct {
	Rate  string   `json:",omitempty"`
	Disks []string `json:"disks"`
}

type config struct {
	Name   string             `json:"name"`
	Count  int                `json:"count"`
	Share  float64            `json:"share"`
	On     *bool              `json:"enabled"`
	Limits map[string][]limit `json:"limits"`
	Secret string             `json:"-"`
	hidden string
}

func TestDecode(t *testing.T) {
	on := true
	for text, want := range map[string]config{
		"":                               {},
		"{}":                             {},
		"name: a\ncount: 3\nenabled: on": {Name: "a", Count: 3, On: &on},
		"limits: {slow: [{Rate: 900, disks: [/dev/sda]}]}": {Limits: map[string][]limit{"slow": {{Rate: "900", Disks: []string{"/dev/sda"}}}}},
	} {
		var got config
		if err := yamlfile.Decode([]byte(text), &got); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(config{})); d != "" {
			t.Errorf("%q: -want +got:\n%s", text, d)
		}
	}
}

func TestMistakes(t *testing.T) {
	const keys = `["Rate" "count" "disks" "enabled" "limits" "name" "share"]`
	for text, want := range map[string]string{
		"hello":                      `it is a string: want a mapping with keys of ` + keys,
		"- a":                        `it is a list: want a mapping with keys of ` + keys,
		"{":                          `it is not valid YAML: line 1: did not find expected node content`,
		"\x7fELF\x00":                `it is not valid YAML: control characters are not allowed`,
		"name: a\nname: b":           `it is not valid YAML: line 2: key "name" already set in map`,
		"nam: a":                     `there is no key "nam" (did you mean "name"?): the keys are ` + keys,
		"Secret: a":                  `there is no key "Secret": the keys are ` + keys,
		"name: [a]":                  `key "name" is a list: want a string`,
		"count: many":                `key "count" is a string: want a whole number`,
		"count: 1.5":                 `key "count" is 1.5: want a whole number`,
		"share: {}":                  `key "share" is a mapping: want a number`,
		"enabled: 3":                 `key "enabled" is a number: want true or false`,
		"limits: true":               `key "limits" is true or false: want a mapping`,
		"limits: {slow: 3}":          `key "limits" is a number: want a list`,
		"limits: {slow: [{Rat: 3}]}": `there is no key "Rat" (did you mean "Rate"?): the keys are ` + keys,
	} {
		if err := yamlfile.Decode([]byte(text), &config{hidden: "x"}); !errors.Is(err, fault.Invalid) || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
