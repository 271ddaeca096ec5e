package daemon

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience decides how long an unfinished line stays in the pipe. The kernel announces
// bytes that are added to a pipe that is not empty only when the write ends, and a write
// does not end if the pipe is full. So the pipe must be checked again while it holds an
// unfinished line, and emptied if the line stays for long, because bytes that enter an
// empty pipe are always announced. The longer a line has waited, the less often it is
// checked: a writer is held up for no longer than the line took to arrive.
type patience struct {
	taken int         // bytes taken out since the last look at the pipe
	last  time.Time   // when it may have been full
	since time.Time   // when the unfinished line was first seen; zero without one
	next  time.Time   // when the timer fires
	timer *time.Timer // nil before there was an unfinished line
}

const (
	// firstLook is after how long an unfinished line is checked again. Most are complete
	// by then.
	firstLook = 10 * time.Millisecond
	// lineStay is how long a line may stay unfinished: then what there is becomes a
	// partial line, and no more checks are needed.
	lineStay = time.Second
	// crowdLasts is how long, generously, it takes until a writer that waited for room
	// continues.
	crowdLasts = time.Second
	// crowdStay is how long a line may stay unfinished meanwhile: it may be some
	// milliseconds until the writer gets a processor.
	crowdStay = 10 * time.Millisecond
)

// look is called for each look at the pipe. A pipe with a writer that waits for room
// holds at least half of its capacity: pieces of no more than half a page share a page.
func (p *patience) look(pipe int) {
	most := held(pipe) + p.taken
	p.taken = 0
	if most < os.Getpagesize()/2 {
		return
	}
	if size, err := unix.FcntlInt(uintptr(pipe), unix.F_GETPIPE_SZ, 0); err == nil && most >= size/2 {
		p.last = time.Now()
	}
}

// took records that n bytes were taken out of the pipe.
func (p *patience) took(n int) { p.taken, p.since = n, time.Time{} }

// wait has again called in time for the unfinished line.
func (p *patience) wait(again func()) {
	now := time.Now()
	switch {
	case p.since.IsZero():
		p.since = now
	case now.Before(p.next):
		return
	}
	waited := now.Sub(p.since)
	pause := min(max(firstLook, waited), p.stay()-waited)
	p.next = now.Add(pause)
	if p.timer == nil {
		p.timer = time.AfterFunc(pause, again)
	} else {
		p.timer.Reset(pause)
	}
}

func (p *patience) stay() time.Duration {
	if time.Since(p.last) < crowdLasts {
		return crowdStay
	}
	return lineStay
}

// over reports whether the unfinished line has stayed long enough.
func (p *patience) over() bool { return !p.since.IsZero() && time.Since(p.since) >= p.stay() }
