package observer

import (
	"io"
	"os"
	"strings"
)

// What FallbackToLogsOnError takes from the end of a log: the kubelet's
// documented limits.
const (
	tailBytes = 2048
	tailLines = 80
)

// logTail returns the end of a log in CRI format without its prefixes, or ""
// when it cannot be read.
func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	// Prefixes are at most 46 bytes a line; more than this cannot matter.
	const window = 2 * (tailBytes + 46*tailLines)
	if end, err := f.Seek(0, io.SeekEnd); err != nil {
		return ""
	} else if _, err := f.Seek(max(end-window, 0), io.SeekStart); err != nil {
		return ""
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		// time stream tag content
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			lines = append(lines, parts[3])
		}
	}
	text := strings.Join(lines[max(len(lines)-tailLines, 0):], "")
	return strings.ToValidUTF8(text[max(len(text)-tailBytes, 0):], "")
}
