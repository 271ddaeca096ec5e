package daemon

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long an unfinished line stays in the pipe. What a writer adds to bytes
// that are there already is announced to nobody before its write ends; and that does not
// end if the pipe is full before. So the pipe has to be looked at again while there is an
// unfinished line in it, and to be emptied when that stays for long, because what comes
// into an empty one always is announced. The longer a line has waited the rarer it is
// looked at: a writer is held up for no longer than it took to come.
type patience struct {
	taken int         // since the pipe was last looked at
	last  time.Time   // when it may have been full
	since time.Time   // when the unfinished line was first seen; zero without one
	next  time.Time   // when the timer fires
	timer *time.Timer // nil before there was an unfinished line
}

const (
	// firstLook is after how long an unfinished line is looked at again. Most have their
	// end by then.
	firstLook = 10 * time.Millisecond
	// lineStay is how long a line may stay unfinished: then what there is becomes a part of
	// a line, and nobody has to look any more.
	lineStay = time.Second
	// crowdLasts is how long it takes at most, with a lot of patience, until who was
	// waiting for room goes on.
	crowdLasts = time.Second
	// crowdStay is how long a line may stay unfinished meanwhile: a processor may be
	// busy with others for some milliseconds before the writer has it.
	crowdStay = 10 * time.Millisecond
)

// look is called for each look at the pipe. One with a writer who waits for room holds
// half of what it could at least: pieces of no more than half a page share one.
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

// took notes that so much was taken out of the pipe.
func (p *patience) took(n int) { p.taken, p.since = n, time.Time{} }

// wait calls again in time for the unfinished line.
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

// over reports whether the unfinished line has stayed for long enough.
func (p *patience) over() bool { return !p.since.IsZero() && time.Since(p.since) >= p.stay() }
