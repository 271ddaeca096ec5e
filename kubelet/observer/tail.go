package observer

import (
	"bytes"
	"context"
	"strings"

	"github.com/nodekit-project/nodekit/cri/log"
)

// What FallbackToLogsOnError takes from the end of a log: the kubelet's documented
// limits.
const (
	tailBytes = 2048
	tailLines = 80
)

// logTail returns the end of a container's log, or "" if it cannot be read.
func logTail(ctx context.Context, path string) string {
	if path == "" {
		return ""
	}
	var text bytes.Buffer
	lines := int64(tailLines)
	if err := log.Read(ctx, path, &text, &text, &log.ReadOptions{Tail: &lines}); err != nil {
		return ""
	}
	end := text.Bytes()
	return strings.ToValidUTF8(string(end[max(len(end)-tailBytes, 0):]), "")
}
