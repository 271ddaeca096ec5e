package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

const (
	// execID begins the ids of entries of execs.
	execID = " exec"
	// removedID begins the ids of containers that were removed before all their output
	// was in their logs. Keepers of earlier versions ignore them.
	removedID = " removed"
)

// restore continues where an earlier keeper, of whatever version, was interrupted: with
// the unacknowledged exits, the containers and the starts in progress. stop ends the
// reaping of children.
func (s *server) restore(exitInfo bool) (stop func(), err error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	if s.children, stop, err = newChildren(poll, s.escrow, exitInfo, s.log); err != nil {
		return nil, err
	}
	if err := s.restoreExits(); err != nil {
		return nil, err
	}
	entries, err := s.escrow.recall()
	if err != nil {
		return nil, fmt.Errorf("asking the anchor: %w", err)
	}
	d, left, err := restoreDesks(s.escrow, entries)
	if err != nil {
		return nil, err
	}
	s.streams = &streams{poller: poll, desks: d}
	for _, x := range entries {
		if !strings.HasPrefix(x.ID, " ") || strings.HasPrefix(x.ID, execID) {
			s.restoreEntry(x, left)
		}
	}
	for _, x := range entries {
		if strings.HasPrefix(x.ID, removedID) {
			s.restoreRemoved(x, left)
		}
	}
	for _, desks := range left { // of containers that were removed
		for _, k := range desks {
			k.clear()
			d.giveBack(k)
		}
	}
	return stop, poll.add(s.escrow.line.FD(), func() { go s.escrow.check() })
}

// restoreExits restores the unacknowledged exits.
func (s *server) restoreExits() error {
	for _, e := range s.journal.Pending() {
		var exit wire.Exit
		if err := json.Unmarshal(e.Data, &exit); err != nil {
			return fmt.Errorf("reading the exit journal: %w", err)
		}
		s.know(&exit, e.ID)
	}
	return nil
}

// restoreContainer restores a container: one that is running, one whose start is in
// progress, or one that has ended but whose output may not have.
func (s *server) restoreContainer(hold *holding, std *stdio) error {
	id := hold.entry.ID
	known := s.containers[id]
	c := newContainer(id)
	c.std, c.hold = std, hold
	s.containers[id] = c
	oom := oomOf(hold.rec.Start.OOMFile, hold.rec.OOM)
	switch {
	case known != nil, hold.rec.Exit != nil:
		exit, entry := hold.rec.Exit, journal.ID(0)
		if known != nil {
			exit, entry = known.exit, known.entry
		} else {
			c.acked = !hold.rec.Sole
		}
		if err := s.noteExit(hold, exit, false); err != nil {
			return err
		}
		std.ended = true // before a worker runs, which closes outputs that are over
		c.life.Lock()
		go func() {
			defer c.life.Unlock()
			s.conclude(c, exit, entry)
		}()
		return std.pump()
	case hold.entry.Starting:
		c.life.Lock()
		go s.resume(c, oom)
		return nil
	}
	proc := &process{pid: hold.entry.PID, kids: s.children, pidfd: hold.get(roleProcess)}
	if proc.pidfd < 0 {
		return fault.Internal.Errorf("it has no process")
	}
	c.proc = proc
	return s.watchOver(c, std, proc, oom)
}

// restoreRemoved continues with the output of a container that was removed. It skips a
// container that still exists because the earlier keeper died while removing it: that
// removal is requested again.
func (s *server) restoreRemoved(x anchor.Entry, left map[uint64][]*desk) {
	hold, err := s.escrow.holdingOf(x)
	if err != nil {
		s.log.Error("the output of a container that was removed is given up", "err", err)
		hold.drop()
		closeAll(x.Files) // their roles are unknown
		return
	}
	if s.hasKey(hold.rec.Key) {
		hold.abandon()
		return
	}
	std, err := s.restoreStdio(hold)
	if err != nil {
		s.log.Error("the output of a container that was removed is given up", "err", err)
		hold.abandon()
		return
	}
	std.resumeAt(left[hold.rec.Key])
	delete(left, hold.rec.Key)
	if err := std.pump(); err != nil {
		s.log.Error("reading the output of a container that was removed", "err", err)
	}
	std.dismiss()
}

// hasKey reports whether a container with this key exists.
func (s *server) hasKey(key uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.hold != nil && c.hold.key() == key { // its worker may already change the holding
			return true
		}
	}
	return false
}

// noteExit records in the holding an exit that the journal knows already, or that could
// not be journalled: then it is recorded nowhere else.
func (s *server) noteExit(hold *holding, exit *wire.Exit, sole bool) error {
	if hold.rec.Exit != nil {
		return nil
	}
	return hold.change(func(h *content) {
		h.entry.PID, h.entry.Starting, h.rec.Exit, h.rec.Sole = 0, false, exit, sole
		h.retire(roleProcess)
		h.retire(roleRuntime)
	})
}

// restoreStdio takes over the streams in a holding. After an error they still belong to
// the holding alone.
func (s *server) restoreStdio(hold *holding) (*stdio, error) {
	std := s.streams.newStdio(hold, s.log.With("container", hold.entry.ID))
	for r, frame := range map[role]byte{roleStdout: wire.FrameStdout, roleStderr: wire.FrameStderr} {
		if fd := hold.get(r); fd >= 0 {
			std.outputs = append(std.outputs, &output{fd: fd, frame: frame})
		}
	}
	if std.once && hold.rec.Attached {
		if err := hold.change(func(h *content) { h.retire(roleStdin) }); err != nil {
			return nil, err
		}
	}
	in, tty := hold.get(roleStdin), hold.get(roleTerminal)
	if in >= 0 {
		if err := unix.SetNonblock(in, true); err != nil {
			return nil, err
		}
	}
	if tty >= 0 {
		if err := std.restoreTerminal(tty); err != nil {
			return nil, err
		}
	}
	if in >= 0 {
		std.stdin = os.NewFile(uintptr(in), "stdin")
	}
	if fd := hold.get(roleLog); fd >= 0 {
		std.log = newLogFile(placeOf(&hold.rec.Start), hold.rec.Key, fd)
	}
	return std, nil
}

// restoreTerminal takes over a terminal and reopens the write end of the pipe behind it.
// A terminal without that pipe was received but not used yet.
func (s *stdio) restoreTerminal(fd int) error {
	if len(s.outputs) == 1 {
		in, err := openWriteEnd(s.outputs[0].fd)
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(in, false); err != nil {
			return errors.Join(err, unix.Close(in))
		}
		s.outputs[0].tap = &tap{tty: fd, into: os.NewFile(uintptr(in), "pipe")}
	}
	s.terminal, s.tty = os.NewFile(uintptr(fd), "terminal"), fd
	if len(s.outputs) == 1 && s.hold.rec.Start.Stdin && !(s.once && s.hold.rec.Attached) {
		s.stdin = s.terminal
	}
	return nil
}

// unused reports whether there is a terminal that is not read yet.
func (s *stdio) unused() bool { return s.terminal != nil && s.outputs[0].tap == nil }
