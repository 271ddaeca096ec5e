package record

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/rawfile"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// A record's file grows by one line per change, and the last complete line counts. That
// is a single write(2); a new file per change would create an inode and delete one, at
// ten times the cost. An interrupted write leaves an incomplete line, which nobody was
// told is written.

// maxLines is the size in bytes above which a file is started anew. Most records change
// five times.
const maxLines = 64 << 10

// appendLine adds a line to the file, which it creates if necessary. After an error the
// file ends as before.
func appendLine(file string, line []byte, s topdir.Spread) error {
	f, err := rawfile.Open(file, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = s.Create(file, 0o600, func(f *os.File) error {
			_, err := f.Write(line)
			return err
		})
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		f, err = rawfile.Open(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size()+int64(len(line)) > maxLines {
		return errors.Join(atomicfile.Replace(file, line, 0o600), f.Close())
	}
	if err == nil {
		if _, err = f.Write(line); err != nil {
			err = errors.Join(err, f.Truncate(fi.Size()))
		}
	}
	return errors.Join(err, f.Close())
}

// lastLine calls load with the last complete line of the file and truncates what follows.
// If damaged is set, lines that load reports as damage are skipped, too. A file without a
// line to load is removed: that is damage, unless it only has a first line that was never
// complete.
func lastLine(file string, damaged bool, load func(line []byte) error) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && !damaged {
		return os.Remove(file)
	}
	found := error(damage{errors.New("no line of it is whole")})
	for end > 0 {
		begin := bytes.LastIndexByte(data[:end-1], '\n') + 1
		if found = load(data[begin:end]); !damaged || !errors.As(found, new(damage)) {
			break
		}
		end = begin
	}
	switch {
	case end == 0:
		if err := os.Remove(file); err != nil {
			return err
		}
		return found
	case found != nil:
		return found
	case end < len(data):
		return os.Truncate(file, int64(end))
	}
	return nil
}

// damage is the error of a record that no server can have written in this form.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error { return damage{fmt.Errorf(format, args...)} }
