package log

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Writer writes one container's log file. Records of both streams appear in the order
// of the writes, and are never interleaved.
type Writer struct {
	mu   sync.Mutex
	dir  string
	name string // relative to dir
	file *os.File
	buf  []byte
	// torn is true after a write that failed half way: the next one begins a
	// new line, so that one damaged record does not take another along.
	torn bool
}

// Open opens the log file for appending and creates it, but not its directory, if it
// does not exist. dir is the Pod's log directory (PodSandboxConfig.log_directory), and
// name the file's path relative to it (ContainerConfig.log_path). Open and Reopen refuse
// anything but a regular file, and on Linux any symbolic link below dir: otherwise
// somebody who can write to a log directory, such as a container that mounts it, could
// redirect the writes to any file. dir itself may be, or be behind, a symbolic link.
func Open(dir, name string) (*Writer, error) {
	f, err := openLog(dir, name)
	if err != nil {
		return nil, fmt.Errorf("opening the container log: %w", err)
	}
	return &Writer{dir: dir, name: name, file: f}, nil
}

// OpenStreams opens the log file as Open does and returns the writers of both streams.
// Closing both writes unfinished lines and closes the file.
func OpenStreams(dir, name string) (stdout, stderr io.WriteCloser, err error) {
	w, err := Open(dir, name)
	if err != nil {
		return nil, nil, err
	}
	open := &atomic.Int32{}
	open.Store(2)
	return &shared{w.Stream(Stdout), w, open}, &shared{w.Stream(Stderr), w, open}, nil
}

// shared closes the file with the last of the streams.
type shared struct {
	io.WriteCloser
	file *Writer
	open *atomic.Int32
}

func (s *shared) Close() error {
	err := s.WriteCloser.Close()
	if s.open.Add(-1) == 0 {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

func openLog(dir, name string) (*os.File, error) {
	f, err := openAppending(dir, name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file (%v)", f.Name(), fi.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Reopen switches to a new file at the path, after the old one has been renamed. If it
// cannot open the new file, it returns an error and the old file stays in use. Nothing
// is lost in either case. An error of closing the old file is returned as well, and then
// the new one is in use.
func (w *Writer) Reopen() error {
	f, err := openLog(w.dir, w.name)
	if err != nil {
		return fmt.Errorf("reopening the container log: %w", err)
	}
	w.mu.Lock()
	old := w.file
	w.file, w.torn = f, false
	w.mu.Unlock()
	if err := old.Close(); err != nil {
		return fmt.Errorf("closing the container log that was renamed: %w", err)
	}
	return nil
}

// Append writes data as records of the stream, with the current time, in one write(2),
// and returns how many bytes of data it has written: see [Append]. After an error it
// returns 0, although part of the data may be in the file.
func (w *Writer) Append(s Stream, data []byte, flush bool) (consumed int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = w.buf[:0]
	if w.torn {
		w.buf = append(w.buf, '\n')
	}
	w.buf, consumed = Append(w.buf, time.Now(), s, data, flush)
	if consumed == 0 {
		return 0, nil
	}
	n, err := w.file.Write(w.buf)
	w.torn = err != nil && n > 0
	if err != nil {
		return 0, fmt.Errorf("writing the container log: %w", err)
	}
	return consumed, nil
}

// Close closes the file. Close the streams before, because they hold unfinished lines.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}

// Stream returns the writer of one stream. It buffers an unfinished line until the rest
// arrives; Close writes it with tag P. A stream's writer may be used by one goroutine
// at a time. Write never writes less than it is given without an error.
func (w *Writer) Stream(s Stream) io.WriteCloser { return &lineWriter{w: w, stream: s} }

type lineWriter struct {
	w      *Writer
	stream Stream
	line   []byte // of a line without an end yet, at most MaxContent bytes
}

func (l *lineWriter) Write(p []byte) (int, error) {
	data := p
	if len(l.line) > 0 {
		l.line = append(l.line, p...)
		data = l.line
	}
	n, err := l.w.Append(l.stream, data, false)
	if err != nil {
		l.line = l.line[:0] // the caller was told; going on grows without bound
		return 0, err
	}
	l.line = append(l.line[:0], data[n:]...)
	return len(p), nil
}

func (l *lineWriter) Close() error {
	_, err := l.w.Append(l.stream, l.line, true)
	l.line = nil
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("an unfinished line is lost: %w", err)
	}
	return err
}
