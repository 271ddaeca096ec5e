package daemon

import (
	"errors"
	"io"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// logFile is a container's log. An error of the file system, a full disk
// mostly, loses the lines that were written meanwhile and nothing else: the
// container must neither block nor die of it.
type logFile struct {
	file           *log.Writer
	stdout, stderr io.WriteCloser
}

func openLog(path string) (*logFile, error) {
	w, err := log.Open(path)
	if err != nil {
		return nil, err
	}
	return &logFile{w, w.Stream(log.Stdout), w.Stream(log.Stderr)}, nil
}

func (l *logFile) write(frame byte, data []byte) error {
	to := l.stdout
	if frame == wire.FrameStderr {
		to = l.stderr
	}
	_, err := to.Write(data)
	return err
}

func (l *logFile) reopen() error { return l.file.Reopen() }

func (l *logFile) close() error {
	return errors.Join(l.stdout.Close(), l.stderr.Close(), l.file.Close())
}
