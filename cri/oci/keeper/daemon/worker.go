package daemon

import (
	"slices"

	"golang.org/x/sys/unix"
)

// The worker of a stdio: when it works, in what order, and how it ends. What it does with
// one output is in output.go.

func (s *stdio) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty = true; !s.working {
		s.working = true
		go s.work()
	}
}

// work is the worker.
func (s *stdio) work() {
	for s.again() {
		s.finishLeft()
		s.reckon()
		over := true
		for _, o := range s.outputs {
			s.drain(o)
			over = over && o.over
		}
		if over || s.last {
			s.finish()
			return
		}
		s.settle()
	}
}

// again reports whether the worker has something to do. If not, it stops being the
// worker.
func (s *stdio) again() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working, s.dirty = s.dirty, false
	return s.working
}

// logged returns a channel that is closed when everything written so far, including an
// unfinished line, has been read and is in the log. Once drained is closed, the channel
// stays open.
func (s *stdio) logged() <-chan struct{} {
	done := make(chan struct{})
	s.mu.Lock()
	s.asked = append(s.asked, done)
	s.mu.Unlock()
	s.wake()
	return done
}

// reckon records how much every output holds, if logged was called or the output is to be
// given up: only that much is waited for, because other processes may keep writing.
func (s *stdio) reckon() {
	s.mu.Lock()
	asked, closing, useless := s.asked, s.closing, s.useless
	s.asked = nil
	s.mu.Unlock()
	s.due = append(s.due, asked...)
	if len(asked) == 0 && closing == s.last {
		return
	}
	s.last = closing
	for _, o := range s.outputs {
		if o.owed = 0; !o.over && !useless {
			o.owed = o.there()
		}
	}
}

// isAsked reports whether reckon has something to do.
func (s *stdio) isAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked) > 0 || s.closing != s.last
}

// goesOn reports whether the worker continues with the output, rather than turning to
// something else first.
func (s *stdio) goesOn(o *output) bool {
	switch {
	case o.over || s.isAsked():
		return false
	case len(s.due) > 0 || s.last:
		return o.owed > 0
	}
	return true
}

// settle closes the due channels if no output owes anything.
func (s *stdio) settle() {
	if len(s.due) == 0 || slices.ContainsFunc(s.outputs, func(o *output) bool { return !o.over && o.owed > 0 }) {
		return
	}
	for _, done := range s.due {
		close(done)
	}
	s.due = nil
	s.wake() // an output may have been left in favour of the others
}

// processEnded records that the container's process has ended. It is called after pump.
func (s *stdio) processEnded() {
	s.mu.Lock()
	wake := !s.ended && s.terminal != nil
	s.ended = true
	s.mu.Unlock()
	if wake {
		s.wake()
	}
}

func (s *stdio) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// resumeAt takes over the desks at which an earlier keeper was interrupted, and the log
// until their work is finished.
func (s *stdio) resumeAt(left []*desk) {
	if len(left) > 0 && s.log != nil {
		<-s.log.mine
		s.left = left
		return
	}
	for _, k := range left { // their log is lost
		k.clear()
		s.desks.giveBack(k)
	}
}

func (s *stdio) finishLeft() {
	if len(s.left) == 0 {
		return
	}
	for _, k := range s.left {
		s.complain(s.log.finish(k, s.outputOf(byte(k.slot.frame))))
		s.desks.giveBack(k)
	}
	s.left = nil
	s.log.mine <- struct{}{}
}

func (s *stdio) outputOf(frame byte) int {
	for _, o := range s.outputs {
		if o.frame == frame {
			return o.fd
		}
	}
	return -1
}

// finish is the worker's last act: everything has been read or is given up.
func (s *stdio) finish() {
	s.mu.Lock()
	s.closing = true
	for a := range s.attached {
		if !a.slow {
			close(a.queue)
		}
	}
	s.attached = nil
	terminal := s.terminal
	if s.stdin == terminal {
		s.stdin = nil
	}
	s.mu.Unlock()
	if s.lost > 0 {
		s.report.Error("a container's log is not complete", "bytes", s.lost)
	}
	defer close(s.drained)
	if s.log != nil { // a reopening would put it into the holding again
		<-s.log.mine
		defer func() { s.log.mine <- struct{}{} }()
	}
	err := s.hold.change(func(h *content) {
		for _, r := range []role{roleStdout, roleStderr, roleTerminal, roleLog} {
			h.set(r, -1)
		}
	})
	if err != nil { // then they stay open, because the anchor still has them
		s.complain(err)
		return
	}
	s.hold.release()
	for _, o := range s.outputs {
		s.poller.remove(o.source())
		_ = unix.Close(o.fd)
		if o.tap != nil {
			_ = o.tap.into.Close()
		}
	}
	if terminal != nil {
		_ = terminal.Close()
	}
	if s.log != nil {
		s.complain(s.log.close())
	}
}
