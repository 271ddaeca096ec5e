package deviceplugin

import "testing"

// TestRunRefusesWords: a flag whose dashes were forgotten is not passed over.
func TestRunRefusesWords(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"--verbose", "true"}, {"--nothing"}} {
		args = append([]string{"plugin", "--kubelet-dir", t.TempDir()}, args...)
		if code := run(&Plugin{Resource: "example.com/words"}, args); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}
