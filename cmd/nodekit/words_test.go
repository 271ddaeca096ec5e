package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                               nil,
		"  a  b\tc ":                     {"a", "b", "c"},
		`./d --x='a b' "c d"e`:           {"./d", "--x=a b", "c de"},
		`a\ b "q\"q" 'q\q' ''`:           {"a b", `q"q`, `q\q`, ""},
		"./d --endpoint $(CSI_ENDPOINT)": {"./d", "--endpoint", "$(CSI_ENDPOINT)"},
	} {
		got, err := words(line)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", line, err, diff)
		}
	}
	for _, line := range []string{`'a`, `"a`, `a\`} {
		if _, err := words(line); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", line, err)
		}
	}
}
