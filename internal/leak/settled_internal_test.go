package leak

import (
	"context"
	"testing"
	"time"
)

// TestSettledSaysWhyNot: an audit that cannot look must not look clean.
func TestSettledSaysWhyNot(t *testing.T) {
	unreadable := &Snapshot{scope: Scope{Kinds: []Kind{File}, Dirs: []string{"\x00"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if left := Settled(ctx, unreadable); len(left) != 1 || left[0].Kind != Audit {
		t.Errorf("left %v", left)
	}
}
