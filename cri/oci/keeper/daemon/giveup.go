package daemon

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// restoreEntry resumes what an entry describes. A fault in an entry affects only its own
// container or exec.
func (s *server) restoreEntry(x anchor.Entry, left map[uint64][]*desk) {
	hold, err := s.escrow.holdingOf(x)
	if err != nil {
		s.giveUp(hold, nil, err)
		closeAll(x.Files) // their roles are unknown
		return
	}
	if hold.rec.Exec {
		s.ending.Add(1)
		go func() {
			defer s.ending.Add(-1)
			s.endExec(hold)
		}()
		return
	}
	known := s.containers[x.ID]
	std, err := s.restoreStdio(hold)
	if err == nil {
		std.resumeAt(left[hold.rec.Key])
		delete(left, hold.rec.Key)
		err = s.restoreContainer(hold, std)
	}
	if err != nil {
		if delete(s.containers, x.ID); known != nil {
			s.containers[x.ID] = known
		}
		s.giveUp(hold, std, err)
	}
}

// giveUp ends a container that cannot be taken over, and publishes its end: nobody reads
// its output any more. Without std, only the holding has its descriptors.
func (s *server) giveUp(hold *holding, std *stdio, cause error) {
	s.log.Error("a container of an earlier keeper is given up", "container", hold.entry.ID, "err", cause)
	process := hold.get(roleProcess)
	if process >= 0 {
		_ = unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0) // it has ended
	}
	s.killChild(hold.entry.PID)
	s.killChild(hold.rec.Run)
	if exit := s.endOf(hold); exit != nil {
		entry, err := s.journal.Note("exit", exit)
		if err != nil {
			s.log.Error("recording an exit", "container", exit.ID, "err", err)
		}
		s.know(exit, entry)
	}
	if std == nil {
		hold.abandon()
		return
	}
	hold.drop()
	if process >= 0 {
		_ = unix.Close(process) // nothing was written through it
	}
	std.close()
}

// endOf returns the exit of a container that is given up; nil if there is none to report,
// or it is already known.
func (s *server) endOf(hold *holding) *wire.Exit {
	id, exit := hold.entry.ID, hold.rec.Exit
	switch {
	case strings.HasPrefix(id, execID), s.containers[id] != nil:
		return nil
	case exit != nil && hold.rec.Sole:
		return exit
	case exit != nil: // acknowledged
		return nil
	}
	if _, err := readPID(pidFileOf(hold)); hold.entry.Starting && err != nil {
		return nil // it did not run
	}
	return &wire.Exit{ID: id, Code: lostCode, At: time.Now(), Lost: true}
}

// know adds the exit of a container of which nothing else is left.
func (s *server) know(exit *wire.Exit, entry journal.ID) {
	c := newContainer(exit.ID)
	s.exits++
	c.exit, c.entry, c.seq = exit, entry, s.exits
	close(c.ended)
	s.containers[c.id] = c
}

// killChild kills a child of the anchor. If the process is not one, its id may have been
// reused.
func (s *server) killChild(pid int) {
	if pid == 0 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if _, _, err := s.escrow.peek(pid, fd); err == nil {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it has ended
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing was written through it here
	}
}
