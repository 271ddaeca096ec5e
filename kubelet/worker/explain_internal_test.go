package worker

import (
	"errors"
	"testing"
)

func TestExplain(t *testing.T) {
	for _, c := range []struct{ why, err, want string }{
		{"not ready: no plugin", "connecting: no plugin", "connecting: no plugin"},
		{"not ready: no plugin", "connecting: refused", "not ready: no plugin\nconnecting: refused"},
		{"not ready", "connecting: refused", "not ready\nconnecting: refused"},
	} {
		if got := explain(errors.New(c.why), errors.New(c.err)).Error(); got != c.want {
			t.Errorf("%q and %q: %q", c.why, c.err, got)
		}
	}
}
