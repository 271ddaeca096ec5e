package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"
)

// ReadOptions selects what Read returns. Nil means everything in the log now, and
// nothing written later.
type ReadOptions struct {
	// Follow continues with what is written later, across rotations of the file, until
	// Ended is closed or the context ends. It also waits for a file that does not exist
	// yet (its directory must).
	Follow bool
	// Tail, if not nil, starts that many lines before the end. The parts of a line
	// count as one line.
	Tail *int64
	// Since omits older records. The zero time omits none.
	Since time.Time
	// Timestamps prefixes every line with its time and a space.
	Timestamps bool
	// Ended, if not nil, is closed by the caller once the container has ended and its
	// log is complete. It only matters with Follow: Read then returns at the end of the
	// log.
	Ended <-chan struct{}
}

// Read copies a container's log to stdout and stderr, either of which may be nil if
// that stream is not wanted. It returns nil at the end of the log, the context's error
// if that ends first, or the error of a writer. Without Follow, a missing file is
// os.ErrNotExist. Read skips lines that are not in the format or are longer than 1 MiB,
// and an unfinished line at the end.
func Read(ctx context.Context, path string, stdout, stderr io.Writer, o *ReadOptions) error {
	r := &reader{path: path, out: map[Stream]*output{Stdout: {w: stdout}, Stderr: {w: stderr}}}
	if o != nil {
		r.opts = *o
	}
	defer r.close()
	if !r.opts.Follow {
		if err := r.open(); err != nil {
			return fmt.Errorf("reading the container log: %w", err)
		}
		return r.drain(ctx, r.size)
	}
	return r.follow(ctx)
}

// reader is one Read. It is used by one goroutine.
type reader struct {
	path    string
	opts    ReadOptions
	file    *os.File
	size    int64  // of the first file, when it was opened
	offset  int64  // of the next byte to read from file
	pending []byte // an unfinished record, which ends before offset
	skip    bool   // the record is too long: it is passed over up to its end
	out     map[Stream]*output
}

// output is where a stream's content goes; inLine after a part of a line.
type output struct {
	w      io.Writer
	inLine bool
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// open opens the file for the first time, at the place that Tail says.
func (r *reader) open() error {
	f, err := openToRead(r.path)
	if err != nil {
		return err
	}
	r.file = f
	if r.size, err = f.Seek(0, io.SeekEnd); err != nil || r.opts.Tail == nil {
		return err
	}
	r.offset, err = tailOffset(f, r.size, *r.opts.Tail)
	return err
}

func openToRead(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDONLY|noBlocking, 0) }

// next turns to another file, read from its beginning.
func (r *reader) next(f *os.File) {
	r.close()
	r.file, r.offset, r.pending, r.skip = f, 0, nil, false
}

// readSize is how much is read at once.
const readSize = 64 << 10

// drain reads to the end of the file that is open, or up to the offset.
func (r *reader) drain(ctx context.Context, upTo int64) error {
	if err := r.mindTruncation(); err != nil {
		return err
	}
	block := make([]byte, readSize)
	for r.offset < upTo {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.file.ReadAt(block[:min(readSize, upTo-r.offset)], r.offset)
		r.offset += int64(n)
		if werr := r.records(block[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			r.unread()
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the container log: %w", err)
		}
	}
	return nil
}

// unread gives an unfinished record at the end of the file back. A writer that finds no room
// on its disk for the rest of it takes it away again, and may have put another one in
// its place by the time that this is looked at.
func (r *reader) unread() {
	r.offset -= int64(len(r.pending))
	r.pending = r.pending[:0]
}

// mindTruncation begins again in a file that somebody cut off.
func (r *reader) mindTruncation() error {
	fi, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("reading the container log: %w", err)
	}
	if fi.Size() < r.offset {
		r.offset, r.pending, r.skip = 0, nil, false
	}
	return nil
}

// records writes the records that data completes.
func (r *reader) records(data []byte) error {
	for {
		line, rest, ok := bytes.Cut(data, []byte{'\n'})
		if !ok {
			r.hold(data)
			return nil
		}
		if r.skip {
			r.skip, data = false, rest
			continue
		}
		if len(r.pending) > 0 {
			line = append(r.pending, line...)
		}
		if err := r.record(line); err != nil {
			return err
		}
		r.pending, data = r.pending[:0], rest
	}
}

// longestRecord bounds what a reader holds in memory. Writers of other runtimes
// make longer records than this one's, but none so long.
const longestRecord = 1 << 20

// hold keeps the beginning of a record until its end comes.
func (r *reader) hold(data []byte) {
	if r.skip || len(r.pending)+len(data) > longestRecord {
		r.pending, r.skip = nil, true
		return
	}
	r.pending = append(r.pending, data...)
}

func (r *reader) record(line []byte) error {
	rec, err := Parse(line)
	if err != nil || rec.Time.Before(r.opts.Since) {
		return nil // documented: what is not a record is passed over
	}
	o := r.out[rec.Stream]
	if o.w == nil {
		return nil
	}
	buf := make([]byte, 0, len(line)+1)
	if r.opts.Timestamps && !o.inLine {
		stamp, _, _ := bytes.Cut(line, []byte{' '})
		buf = append(append(buf, stamp...), ' ')
	}
	buf = append(buf, rec.Content...)
	if !rec.Partial {
		buf = append(buf, '\n')
	}
	o.inLine = rec.Partial
	_, err = o.w.Write(buf)
	return err
}

// follow drains, waits and turns to newer files until the end.
func (r *reader) follow(ctx context.Context) error {
	if real, err := filepath.EvalSymlinks(r.path); err == nil {
		r.path = real // events come from the file's own directory
	}
	changes, err := watch(filepath.Dir(r.path))
	if err != nil {
		return fmt.Errorf("following the container log: %w", err)
	}
	defer changes.Close()
	for {
		ended := r.ended() // looked at first: what was written before it counts
		if err := r.advance(ctx); err != nil || ended {
			return err
		}
		if err := changes.Wait(ctx, r.opts.Ended); err != nil {
			return err
		}
	}
}

func (r *reader) ended() bool {
	select {
	case <-r.opts.Ended: // nil blocks
		return true
	default:
		return false
	}
}

// advance reads all there is: the rest of the open file, the files it was
// rotated to meanwhile, and the newest.
func (r *reader) advance(ctx context.Context) error {
	if r.file == nil {
		if err := r.open(); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("following the container log: %w", err)
		}
	}
	for {
		newer, err := r.newer()
		if err != nil {
			return fmt.Errorf("following the container log: %w", err)
		}
		// The writer left this file before a newer one appeared, so what is
		// there now is all of it.
		if err := r.drain(ctx, math.MaxInt64); err != nil || newer == nil {
			return err
		}
		r.next(newer)
	}
}
