package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/beneath"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// logFile is a container's log. A file system error, usually a full disk, loses the lines
// that are written meanwhile and nothing else: the container must neither block nor fail
// because of it.
type logFile struct {
	place logPlace
	key   uint64        // of the container
	mine  chan struct{} // holds a token while the file is not in use
	fd    int
	// torn is set after a write that failed halfway: the next one begins with a newline,
	// so that one damaged record does not damage another.
	torn bool
	// unseen is set until the end of the file has been inspected: an earlier writer may
	// have left it torn.
	unseen bool
}

// logPlace says where a log is: see wire.StartRequest.
type logPlace struct{ path, dir string }

func placeOf(r *wire.StartRequest) logPlace { return logPlace{r.Log, r.LogDir} }

func newLogFile(place logPlace, key uint64, fd int) *logFile {
	l := &logFile{place: place, key: key, fd: fd, unseen: true, mine: make(chan struct{}, 1)}
	l.mine <- struct{}{}
	return l
}

// open opens or creates the log file. A container may be able to write to the directory
// of its log: if it puts something else there, such as a symbolic link or a pipe that
// nobody reads, that is refused.
func (p logPlace) open() (fd int, err error) {
	const flags = unix.O_CREAT | unix.O_RDWR | unix.O_APPEND | unix.O_NONBLOCK
	dir, name := p.dir, ""
	if dir == "" {
		dir = filepath.Dir(p.path)
	}
	if name, err = filepath.Rel(dir, p.path); err == nil {
		fd, err = beneath.Open(dir, name, flags, 0o640)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENXIO) {
		err = fault.Invalid.Wrap(err)
	}
	if err == nil {
		if err = ownFile(fd); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("opening the container log %q: %w", p.path, err)
	}
	return fd, nil
}

func ownFile(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fault.Invalid.Errorf("it is no regular file")
	}
	if st.Nlink > 1 {
		return fault.Invalid.Errorf("it has %d names: a log has one", st.Nlink)
	}
	return nil
}

// reopenLimit is how long reopening waits for a disk that does not respond.
const reopenLimit = 10 * time.Second

// reopen continues in a new file at the path. keep makes sure that the next keeper does
// so, too. Nothing is done for a log that is complete.
func (l *logFile) reopen(keep func(fd int) error) error {
	select {
	case <-l.mine:
	case <-time.After(reopenLimit):
		return fault.Unavailable.Errorf("reopening the container log %q: a write to it does not end", l.place.path)
	}
	defer func() { l.mine <- struct{}{} }()
	if l.fd < 0 {
		return nil
	}
	fd, err := l.place.open()
	if err != nil {
		return err
	}
	if err := keep(fd); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	old := l.fd
	l.fd, l.torn, l.unseen = fd, false, true
	return unix.Close(old)
}

// close closes the log. The caller has exclusive use of it, and nobody writes any more.
func (l *logFile) close() error {
	fd := l.fd
	l.fd = -1
	return unix.Close(fd)
}

// encode makes records of output and returns how many bytes of output they contain.
func encode(dst []byte, at time.Time, frame byte, data []byte, flush bool) (records []byte, take int) {
	stream := log.Stdout
	if frame == wire.FrameStderr {
		stream = log.Stderr
	}
	return log.Append(dst, at, stream, data, flush)
}

// piece is a piece of output on its way into the log.
type piece struct {
	pipe    int // the pipe that still holds it
	frame   byte
	at      time.Time
	flush   bool
	records []byte
	take    int
	spare   []byte // buffer for what is consumed; at least take bytes long
}

// record writes a piece to the log: see desk.
func (l *logFile) record(k *desk, p *piece) error {
	<-l.mine
	defer func() { l.mine <- struct{}{} }()
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil { // a network file system has lost the file
		return errors.Join(fmt.Errorf("writing the container log: %w", err), discard(p.pipe, p.spare[:p.take]))
	}
	l.inspect(st.Size)
	if l.torn {
		p.records = append([]byte{'\n'}, p.records...)
	}
	*k.slot = slot{
		key: l.key, frame: uint64(p.frame), end: uint64(st.Size), size: uint64(len(p.records)),
		take: uint64(p.take), at: uint64(p.at.UnixNano()), flush: truth(p.flush),
	}
	atomic.StoreUint64(&k.slot.busy, 1)
	moved, merr := k.move(p.pipe, p.take)
	werr := l.write(p.records)
	if merr != nil { // only by a bug here, which must not become an endless loop
		merr = errors.Join(merr, discard(p.pipe, p.spare[:p.take-moved]))
	}
	cerr := discard(k.transit[0], p.spare[:moved])
	atomic.StoreUint64(&k.slot.busy, 0)
	return errors.Join(werr, merr, cerr)
}

// inspect finds out whether the file ends with a partial record. The disk may be slow, so
// the worker does that.
func (l *logFile) inspect(size int64) {
	if !l.unseen {
		return
	}
	l.unseen = false
	last := []byte{'\n'}
	if size > 0 {
		again(func() error {
			_, err := unix.Pread(l.fd, last, size-1)
			return err // a write-only descriptor cannot tell
		})
	}
	l.torn = l.torn || last[0] != '\n'
}

// write writes everything or returns an error. After an error, no partial record remains.
func (l *logFile) write(b []byte) error {
	for done := 0; done < len(b); {
		var n int
		var err error
		again(func() error {
			n, err = unix.Write(l.fd, b[done:])
			return err
		})
		if err != nil {
			if done > 0 {
				err = errors.Join(err, l.takeBack(b[:done]))
			}
			return fmt.Errorf("writing the container log: %w", err)
		}
		done += n
	}
	l.torn = false
	return nil
}

// takeBack removes the partial record at the end of what was written: readers would take
// it for a whole one, a line that nobody wrote.
func (l *logFile) takeBack(written []byte) error {
	l.torn = true
	half := len(written) - (bytes.LastIndexByte(written, '\n') + 1)
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return err
	}
	if int64(half) > st.Size { // somebody has truncated the file
		return nil
	}
	if err := unix.Ftruncate(l.fd, st.Size-int64(half)); err != nil {
		return err
	}
	l.torn, l.unseen = false, true // what was there before may be torn as well
	return nil
}

// finish completes what an earlier keeper left unfinished at a desk. The caller has had
// exclusive use of the file since it was restored: after a rotation nobody could tell
// which records are there.
func (l *logFile) finish(k *desk, pipe int) error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		k.clear() // another container may use it next
		return fmt.Errorf("completing the container log: %w", err)
	}
	s, size := k.slot, uint64(st.Size)
	var err error
	if size < s.end+s.size {
		err = l.complete(k, pipe, size)
	}
	err = errors.Join(err, discard(k.transit[0], make([]byte, held(k.transit[0]))))
	atomic.StoreUint64(&s.busy, 0)
	return err
}

// complete writes those of the announced records that are missing at the end of the log,
// which has the given size. The same output at the same time makes the same records. It
// flushes, because the bytes that showed that the last line continues are not included.
func (l *logFile) complete(k *desk, pipe int, size uint64) error {
	s := k.slot
	if _, err := k.move(pipe, int(s.take)-held(k.transit[0])); err != nil {
		return err
	}
	data := make([]byte, s.take)
	n, err := k.duplicate(k.transit[0], data)
	if err != nil {
		return err
	}
	records, _ := encode(nil, time.Unix(0, int64(s.at)), byte(s.frame), data[:n], true)
	written := size - min(s.end, size)
	switch {
	case uint64(len(records)) == s.size && written <= s.size:
		records = records[written:]
	case uint64(len(records))+1 == s.size && written > 0: // the records began with a newline
		records = records[min(written, s.size)-1:]
	default: // they begin with one, or this machine's time zone has changed
		records = append([]byte{'\n'}, records...)
	}
	return l.write(records)
}

// discard consumes len(spare) bytes, which the pipe must hold. Unlike splice(2), read(2)
// of available bytes is not interrupted halfway.
func discard(pipe int, spare []byte) error {
	if len(spare) == 0 {
		return nil
	}
	return readFull(pipe, spare)
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
