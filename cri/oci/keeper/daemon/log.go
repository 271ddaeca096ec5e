package daemon

import (
	"errors"
	"io"
	"sync"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// logFile is a container's log. An error of the file system, a full disk
// mostly, loses the lines that were written meanwhile and nothing else: the
// container must neither block nor die of it.
type logFile struct {
	file           *log.Writer
	stdout, stderr io.WriteCloser

	mu     sync.Mutex // of reopen and close
	closed bool
}

func openLog(path string) (*logFile, error) {
	w, err := log.Open(path)
	if err != nil {
		return nil, err
	}
	return &logFile{file: w, stdout: w.Stream(log.Stdout), stderr: w.Stream(log.Stderr)}, nil
}

func (l *logFile) write(frame byte, data []byte) error {
	to := l.stdout
	if frame == wire.FrameStderr {
		to = l.stderr
	}
	_, err := to.Write(data)
	return err
}

// reopen does nothing for a log that is complete.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	return l.file.Reopen()
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return errors.Join(l.stdout.Close(), l.stderr.Close(), l.file.Close())
}
