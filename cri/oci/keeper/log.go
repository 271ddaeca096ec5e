package keeper

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"
)

// logFile writes the container's output in CRI's log format.
type logFile struct {
	mu   sync.Mutex
	path string
	file *os.File
	rest map[byte][]byte
}

const maxLine = 16 << 10

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, file: f, rest: map[byte][]byte{}}, nil
}

func (l *logFile) write(frame byte, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var out []byte
	rest := append(l.rest[frame], data...)
	for {
		i := bytes.IndexByte(rest, '\n')
		switch {
		case i >= 0 && i <= maxLine:
			out = appendLine(out, now, frame, 'F', rest[:i])
			rest = rest[i+1:]
			continue
		case len(rest) > maxLine:
			out = appendLine(out, now, frame, 'P', rest[:maxLine])
			rest = rest[maxLine:]
			continue
		}
		break
	}
	l.rest[frame] = rest
	_, _ = l.file.Write(out)
}

func appendLine(out []byte, now time.Time, frame, tag byte, text []byte) []byte {
	out = now.UTC().AppendFormat(out, "2006-01-02T15:04:05.000000000Z07:00")
	if frame == frameStderr {
		out = append(out, " stderr "...)
	} else {
		out = append(out, " stdout "...)
	}
	out = append(out, tag, ' ')
	out = append(out, text...)
	return append(out, '\n')
}

func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	err = l.file.Close()
	l.file = f
	return errors.Join(err)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for frame, rest := range l.rest {
		if len(rest) > 0 {
			_, _ = l.file.Write(appendLine(nil, time.Now(), frame, 'F', rest))
		}
	}
	_ = l.file.Close()
}
