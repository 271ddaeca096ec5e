package statedir_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/statedir"
)

func TestOf(t *testing.T) {
	for given, want := range map[string]string{
		"":                      "/var/lib/mine",
		"/state":                "/state",
		"/var/lib/a:/var/lib/b": "/var/lib/a",
	} {
		got := statedir.Of("mine", func(key string) string {
			if key != "STATE_DIRECTORY" {
				t.Errorf("it asks for %s", key)
			}
			return given
		})
		if got != want {
			t.Errorf("STATE_DIRECTORY=%q: %q, want %q", given, got, want)
		}
	}
}
