package log

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// newer opens the file that follows the open one: the kubelet renames NAME to
// NAME.TIME, and the writer makes NAME anew. Nil when there is none yet.
func (r *reader) newer() (*os.File, error) {
	mine, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	newest, err := openToRead(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if fi, err := newest.Stat(); err != nil || os.SameFile(fi, mine) {
		return nil, errors.Join(err, newest.Close())
	}
	// Rotated, perhaps more than once. This is looked at after opening the
	// newest, which a rotation meanwhile only makes one of these.
	rotated, err := filepath.Glob(escape(r.path) + ".*")
	if err != nil {
		return nil, errors.Join(err, newest.Close())
	}
	slices.Sort(rotated) // the names' times sort as text
	for _, name := range afterMine(rotated, mine) {
		if between, err := openToRead(name); err == nil {
			return between, newest.Close()
		}
	}
	return newest, nil
}

// afterMine returns the rotated files that come after the one that is mine;
// none when mine is not among them any more. Compressed files are not read.
func afterMine(rotated []string, mine os.FileInfo) []string {
	for i, name := range rotated {
		fi, err := os.Stat(name)
		if err != nil || !os.SameFile(fi, mine) {
			continue
		}
		return slices.DeleteFunc(slices.Clone(rotated[i+1:]), func(n string) bool {
			return strings.HasSuffix(n, ".gz") || strings.HasSuffix(n, ".tmp")
		})
	}
	return nil
}

// escape takes the meaning of a pattern from a path.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// tailOffset returns where the last n lines of a file of that size begin. Only records
// with tag F end a line; parts after the last of them are a line, too.
func tailOffset(f *os.File, size, n int64) (int64, error) {
	if n <= 0 {
		return size, nil
	}
	b := &backward{f: f, end: size}
	var seen int64
	for first := true; ; first = false {
		line, start, err := b.line()
		if err != nil || start < 0 {
			return 0, err
		}
		if first {
			continue // what follows the last newline is no record yet
		}
		rec, err := Parse(line)
		ends := err == nil && !rec.Partial
		if ends || (err == nil && seen == 0) {
			seen++
		}
		if ends && seen > n {
			return start + int64(len(line)) + 1, nil
		}
	}
}

// backward reads a file's lines from the end.
type backward struct {
	f    *os.File
	end  int64  // of what is not in held yet
	held []byte // what follows end and was not returned
	done bool
}

// line returns the last line that was not returned yet, and where it starts; a
// start below 0 says that there is none.
func (b *backward) line() (line []byte, start int64, err error) {
	for {
		if i := bytes.LastIndexByte(b.held, '\n'); i >= 0 {
			line, start = b.held[i+1:], b.end+int64(i)+1
			b.held = b.held[:i]
			return line, start, nil
		}
		if b.end == 0 {
			if b.done {
				return nil, -1, nil
			}
			b.done = true
			return b.held, 0, nil
		}
		if len(b.held) > longestRecord { // no record: its parts are as good as lines
			line, b.held = b.held, nil
			return line, b.end, nil
		}
		n := min(b.end, readSize)
		block := make([]byte, n, n+int64(len(b.held)))
		if _, err := b.f.ReadAt(block, b.end-n); err != nil {
			return nil, -1, err
		}
		b.held, b.end = append(block, b.held...), b.end-n
	}
}
