package daemon

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// poller reports when descriptors become readable, once each time something new arrives
// (edge-triggered). An idle descriptor costs a map entry; a goroutine and a Go runtime
// poll descriptor for each would take several times the keeper's own memory with some
// hundred containers.
type poller struct {
	fd int

	mu      sync.Mutex
	watched map[int]func()
}

// newPoller starts a poller, which runs as long as the process.
func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making the poller: %w", err)
	}
	p := &poller{fd: fd, watched: map[int]func(){}}
	go p.run()
	return p, nil
}

func (p *poller) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(p.fd, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("waiting for events: %v", err)) // only by a bug here
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			ready := p.watched[int(e.Fd)]
			p.mu.Unlock()
			if ready != nil {
				ready()
			}
		}
	}
}

// add has ready called whenever something new can be read from the descriptor, including
// its end, and soon if that is the case already. ready must not block. There may be
// spurious calls when a descriptor number is reused.
func (p *poller) add(fd int, ready func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched[fd] = ready
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		delete(p.watched, fd)
		return fmt.Errorf("watching a descriptor: %w", err)
	}
	return nil
}

// remove must precede closing the descriptor: there are copies of it elsewhere, so the
// kernel would not remove it by itself.
func (p *poller) remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.watched[fd]; ok {
		delete(p.watched, fd)
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil) // it was added
	}
}
