package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// logFile is a container's log. An error of the file system, a full disk
// mostly, loses the lines that were written meanwhile and nothing else: the
// container must neither block nor die of it.
type logFile struct {
	path string
	key  uint64        // of the container
	mine chan struct{} // holds a token while nobody uses the file
	fd   int
	// torn is true after a write that failed half way: the next one begins a
	// new line, so that one damaged record does not take another along.
	torn bool
	// unseen is true until the end of the file was looked at: whoever wrote it before
	// may have left it torn.
	unseen bool
}

func newLogFile(path string, key uint64, fd int) *logFile {
	l := &logFile{path: path, key: key, fd: fd, unseen: true, mine: make(chan struct{}, 1)}
	l.mine <- struct{}{}
	return l
}

// openLog opens a file of the log's own, or makes it. A container may be able to write to
// the directory of its log: what it puts there instead, a link to another file
// or a pipe that nobody reads, is refused.
func openLog(path string) (fd int, err error) {
	again(func() error {
		fd, err = unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
		return err
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		err = fault.Invalid.Wrap(err)
	}
	if err == nil {
		if err = ownFile(fd); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("opening the container log %q: %w", path, err)
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

// reopenLimit is how long a reopening waits for a disk that does not answer.
const reopenLimit = 10 * time.Second

// reopen goes on in a new file at the path. keep makes sure that the next keeper
// does, too. Nothing is done for a log that is complete.
func (l *logFile) reopen(keep func(fd int) error) error {
	select {
	case <-l.mine:
	case <-time.After(reopenLimit):
		return fault.Unavailable.Errorf("reopening the container log %q: a write to it does not end", l.path)
	}
	defer func() { l.mine <- struct{}{} }()
	if l.fd < 0 {
		return nil
	}
	fd, err := openLog(l.path)
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

// close ends the log. The caller has it to itself, and nobody writes any more.
func (l *logFile) close() error {
	fd := l.fd
	l.fd = -1
	return unix.Close(fd)
}

// encode makes records of output and returns how many bytes are in them.
func encode(dst []byte, at time.Time, frame byte, data []byte, flush bool) (records []byte, take int) {
	stream := log.Stdout
	if frame == wire.FrameStderr {
		stream = log.Stderr
	}
	return log.Append(dst, at, stream, data, flush)
}

// piece is output on its way into the log.
type piece struct {
	pipe    int // where it still is
	frame   byte
	at      time.Time
	flush   bool
	records []byte
	take    int
	spare   []byte // to read into what is consumed; at least as long as take
}

// record brings a piece into the log: see desk.
func (l *logFile) record(k *desk, p *piece) error {
	<-l.mine
	defer func() { l.mine <- struct{}{} }()
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil { // a file on another machine, which has lost it
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
	if merr != nil { // not without a bug here; it must not become an endless one
		merr = errors.Join(merr, discard(p.pipe, p.spare[:p.take-moved]))
	}
	cerr := discard(k.transit[0], p.spare[:moved])
	atomic.StoreUint64(&k.slot.busy, 0)
	return errors.Join(werr, merr, cerr)
}

// inspect finds out whether there is half a record at the end of the file. The disk
// may be slow, so that is for the worker.
func (l *logFile) inspect(size int64) {
	if !l.unseen {
		return
	}
	l.unseen = false
	last := []byte{'\n'}
	if size > 0 {
		again(func() error {
			_, err := unix.Pread(l.fd, last, size-1)
			return err // one that was opened only to be written cannot tell
		})
	}
	l.torn = l.torn || last[0] != '\n'
}

// write writes everything or says that it did not. Then no half of a record stays.
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

// takeBack removes the half of a record at the end of what was written: readers would
// take it for a whole one, of a line that nobody wrote.
func (l *logFile) takeBack(written []byte) error {
	l.torn = true
	half := len(written) - (bytes.LastIndexByte(written, '\n') + 1)
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return err
	}
	if int64(half) > st.Size { // somebody has cut the file off
		return nil
	}
	if err := unix.Ftruncate(l.fd, st.Size-int64(half)); err != nil {
		return err
	}
	l.torn, l.unseen = false, true // what was there before may have no end either
	return nil
}

// finish does what an earlier keeper has left half done at a desk. The caller has
// had the file to itself since it was restored: after a rotation nobody could tell
// what of it is there.
func (l *logFile) finish(k *desk, pipe int) error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		k.clear() // another container is the next to use it
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

// complete writes what of the announced records is missing at the end of the log,
// which has the size. The same output at the same time makes the same records; it is
// flushed, because what showed that the last one's line goes on is not among it.
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
	case uint64(len(records))+1 == s.size && written > 0: // they began with a newline
		records = records[min(written, s.size)-1:]
	default: // they begin with one, or the clock of this machine has another zone now
		records = append([]byte{'\n'}, records...)
	}
	return l.write(records)
}

// discard takes as much out of a pipe, which holds it, as the buffer is long.
// read(2) of bytes that are there is not interrupted half way, as splice(2) is.
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
