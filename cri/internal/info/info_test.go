package info_test

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cri/internal/info"
)

func TestOf(t *testing.T) {
	own := map[string]any{"dir": "/d", "state": json.RawMessage(nil), "old": 1}
	got := info.Of(slog.New(slog.DiscardHandler), own, "Info.X", func() map[string]any {
		return map[string]any{"old": []int{2}, "bad": make(chan int)}
	})
	want := map[string]string{
		"dir": `"/d"`, "state": "null", "old": "[2]", "bad": `"Info.X: json: unsupported type: chan int"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = info.Of(slog.New(slog.DiscardHandler), own, "Info.X", func() map[string]any { panic("a bug") })
	if len(got) != 3 {
		t.Errorf("after a panic: %v", got)
	}
	if got := info.Of(nil, nil, "", nil); len(got) != 0 {
		t.Errorf("nothing: %v", got)
	}
}
