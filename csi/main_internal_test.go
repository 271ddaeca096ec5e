package csi

import "testing"

// TestRunRefusesWords: a flag whose dashes were forgotten is not passed over.
func TestRunRefusesWords(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"--verbose", "true"}, {"--nothing"}} {
		args = append([]string{"--endpoint", "unix:///nowhere/c.sock"}, args...)
		if code := run(t.Context(), &Driver{Name: "words.csi.example.com"}, args); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}
