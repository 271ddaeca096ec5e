// Package log writes and reads container logs in the CRI format (cri-api v0.37, and the
// kubelet's readers):
//
//	TIMESTAMP stdout|stderr TAGS CONTENT
//
// The timestamp is in RFC 3339 format with nanoseconds. Tag F marks the end of a line
// and P a part of one; further tags may follow after a colon and are ignored by
// readers. A reader joins the parts of a line.
//
// The runtime's keeper writes ([Writer], or [Append] for callers that account for every
// byte); the kubelet and the command line read ([Read]). The package depends only on
// the standard library and golang.org/x/sys. It does not rotate files: the kubelet
// does, and both sides handle it.
//
// A Writer is safe for concurrent use, and so is Read.
package log

import (
	"bytes"
	"fmt"
	"time"
)

// Stream is one of a container's output streams.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// MaxContent is the maximum number of bytes of a line in one record: 16 KiB, as in the
// runtimes that the kubelet's tools know. A longer line is split into several records,
// all but the last with tag P.
const MaxContent = 16 << 10

// timeFormat is RFC 3339 with exactly nine digits, so that records of one zone
// sort as text. Readers take any number of digits.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Append encodes data as records of the stream, appends them to dst, and returns how
// many bytes of data they hold. Without flush, an unfinished line at the end that is
// not longer than MaxContent is left for the next call, when more of it has arrived;
// with flush it becomes a record with tag P, and all of data is consumed.
func Append(dst []byte, t time.Time, s Stream, data []byte, flush bool) (out []byte, consumed int) {
	head := t.AppendFormat(make([]byte, 0, 64), timeFormat)
	head = append(append(append(head, ' '), s...), ' ')
	for rest := data; len(rest) > 0; rest = data[consumed:] {
		window := rest[:min(len(rest), MaxContent+1)]
		end, tag, skip := bytes.IndexByte(window, '\n'), byte('F'), 1
		switch {
		case end >= 0:
		case len(rest) >= MaxContent+1:
			end, tag, skip = MaxContent, 'P', 0
		case flush:
			end, tag, skip = min(len(rest), MaxContent), 'P', 0
		default:
			return dst, consumed
		}
		dst = append(append(dst, head...), tag, ' ')
		dst = append(append(dst, rest[:end]...), '\n')
		consumed += end + skip
	}
	return dst, consumed
}

// Record is one parsed record.
type Record struct {
	Time    time.Time
	Stream  Stream
	Partial bool // tag P: the line goes on in the stream's next record
	Content []byte
}

// Parse parses a record without its newline. Content aliases line.
func Parse(line []byte) (Record, error) {
	fields := bytes.SplitN(line, []byte{' '}, 4)
	if len(fields) == 3 { // an empty line, written without its last space
		fields = append(fields, nil)
	}
	if len(fields) != 4 {
		return Record{}, fmt.Errorf("parsing log record %.80q: want time, stream, tags and content", line)
	}
	t, err := time.Parse(time.RFC3339Nano, string(fields[0]))
	if err != nil {
		return Record{}, fmt.Errorf("parsing log record %.80q: %w", line, err)
	}
	r := Record{Time: t, Stream: Stream(fields[1]), Content: fields[3]}
	if r.Stream != Stdout && r.Stream != Stderr {
		return Record{}, fmt.Errorf("parsing log record %.80q: unknown stream %q", line, fields[1])
	}
	tag, _, _ := bytes.Cut(fields[2], []byte{':'})
	switch string(tag) {
	case "F":
	case "P":
		r.Partial = true
	default:
		return Record{}, fmt.Errorf("parsing log record %.80q: unknown tag %q", line, tag)
	}
	return r, nil
}
