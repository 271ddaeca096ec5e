package anchor

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// programs chooses the program of the next keeper: the one requested last; if that does
// not come up, the last one that served; and then the anchor's own. So a new version that
// cannot serve costs a node some attempts and not its keeper. anchor.mu guards it.
type programs struct {
	next string // path of the one that was requested last
	// proven is a descriptor of the last one that served, whose file may have been
	// replaced or deleted since; -1 if none has.
	proven int
	failed int // keepers that ended without serving since the last one that served
}

const (
	// trials is how often a program may end before serving, until the next one is tried.
	trials = 3
	// serveLimit is how long a keeper may take to serve. It grows with the failures, so
	// that even a very slow machine gets a keeper in the end.
	serveLimit = 6 * time.Second
)

// candidates returns the programs in the order in which they are tried now.
func (p *programs) candidates() []string {
	all := []string{p.next}
	if p.proven >= 0 {
		// Through this process's descriptor: the child has other descriptors by then.
		all = append(all, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.proven))
	}
	all = append(all, "/proc/self/exe")
	first := p.failed / trials % len(all)
	return append(all[first:], all[:first]...)
}

// served records that a keeper has come up, and keeps its program open.
func (p *programs) served(pid int) {
	p.failed = 0
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it has died, or no descriptor is left; the previous program is kept
	}
	if p.proven >= 0 {
		_ = unix.Close(p.proven) // nothing was written through it
	}
	p.proven = fd
}

// patience returns how long a keeper that starts now may take to serve.
func (p *programs) patience() time.Duration { return serveLimit * time.Duration(1+p.failed) }

// hung records that a keeper took too long: its program is not tried again in this round.
func (p *programs) hung() { p.failed += trials - 1 - p.failed%trials }
