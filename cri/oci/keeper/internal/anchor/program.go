package anchor

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// programs says which program the next keeper is: the one that was asked for last,
// and where that does not come up the last one that served, and then the anchor's
// own. So a new version that cannot serve costs a node some tries and not its
// keeper. anchor.mu guards it.
type programs struct {
	next string // path of the one that was asked for
	// proven is a descriptor of the last one that served, whose file may have been
	// replaced or deleted since; -1 before one did.
	proven int
	failed int // keepers that have ended without serving, since one served
}

const (
	// trials is how often a program may end before it serves, until it is another
	// one's turn.
	trials = 3
	// serveLimit is how long a keeper may take to serve. It grows with the failures:
	// nothing must keep a machine that is so slow from ever having one.
	serveLimit = 6 * time.Second
)

// candidates are the programs in the order in which they are tried now.
func (p *programs) candidates() []string {
	all := []string{p.next}
	if p.proven >= 0 {
		// By way of this process: the child has other descriptors by then.
		all = append(all, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.proven))
	}
	all = append(all, "/proc/self/exe")
	first := p.failed / trials % len(all)
	return append(all[first:], all[:first]...)
}

// served notes that a keeper has come up, and holds on to its program.
func (p *programs) served(pid int) {
	p.failed = 0
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it has died, or there is no descriptor left; the one before is held on
	}
	if p.proven >= 0 {
		_ = unix.Close(p.proven) // nothing was written through it
	}
	p.proven = fd
}

// patience is how long a keeper that starts now may take to serve.
func (p *programs) patience() time.Duration { return serveLimit * time.Duration(1+p.failed) }

// hung notes that a keeper took too long: its program gets no other trial.
func (p *programs) hung() { p.failed += trials - 1 - p.failed%trials }
