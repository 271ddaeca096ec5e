package call_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/call"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTrace(t *testing.T) {
	ctx := call.WithTrace(t.Context(), call.Trace{Parent: parent, State: "a=b"})
	got := call.TraceFrom(ctx)
	if got.Parent != parent || got.State != "a=b" {
		t.Errorf("the context carries %v", got)
	}
	first, second := got.Child(), got.Child()
	for _, c := range []call.Trace{first, second} {
		if len(c.Parent) != len(parent) || c.Parent[:36] != parent[:36] || c.Parent[52:] != "-01" || c.State != "a=b" {
			t.Errorf("child %v of %v", c, got)
		}
	}
	if first.Parent == second.Parent || first.Parent == parent {
		t.Errorf("span ids are not their own: %v and %v", first, second)
	}
}

func TestNoTrace(t *testing.T) {
	for _, bad := range []string{"", "00", parent + "0", "00-XXf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		if got := call.TraceFrom(call.WithTrace(t.Context(), call.Trace{Parent: bad, State: "s"})); got != (call.Trace{}) {
			t.Errorf("%q is carried as %v", bad, got)
		}
	}
	if got := (call.Trace{}).Child(); got != (call.Trace{}) {
		t.Errorf("nobody's child is %v", got)
	}
}
