// Package anchor is the process above the keeper, and the line between the two.
//
// The anchor does as little as possible, so that there is never a reason to replace it:
// it starts the keeper, restarts it when it ends, and holds what must not end with a
// keeper. It is a subreaper, so the keeper's children become its own when the keeper
// dies; and the keeper leaves a copy of every important descriptor with it, in entries
// that are opaque to it. The anchor neither reads nor writes these descriptors, opens no
// file but its lock, and writes no record: a child whose exit nobody has seen stays a
// zombie, which is as durable as the anchor itself, until the keeper asks how it ended
// (Peek) and drops the entry with its process id. A child without an entry is a stranger
// and is reaped, unless an entry says that something is being started: the stranger may
// turn out to be that.
//
// The line is a pair of sockets; each packet carries one message, with the descriptors of
// an entry. Put, Drop and the like have no answer: what was sent is processed in order,
// even if the keeper is dead by then. New fields and kinds of messages may be added,
// which a keeper uses only if the anchor reports a version that supports them; existing
// ones never change, because a node's anchor is as old as the node's uptime. An anchor
// hands on only the fields of an entry that it knows: only Data may grow.
//
// When the anchor dies, its keeper becomes the anchor (Become): the same process in
// another role, with its children, its place and its own copies of the descriptors.
package anchor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/child"
)

// Descriptors of a keeper that an anchor has started.
const (
	ReadyFD = 3 // where the first keeper reports that it serves; else /dev/null
	LineFD  = 4 // the keeper's end of the line
	LockFD  = 5 // see Lock
)

// Config says what an anchor starts.
type Config struct {
	Program string   // the keeper's program, absolute, until the keeper names another
	Args    []string // its arguments, without the program
	// Lock is the descriptor returned by Lock, or handed on by Become.
	Lock int
	// Handed is the descriptor of the entries that Become left; -1 if there are none.
	Handed int
}

// Run is the anchor process. It returns when a keeper has ended after Release,
// or without ever having served.
func Run(c Config) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the subreaper: %w", err)
	}
	a := &anchor{Config: c, programs: programs{next: c.Program, proven: -1}, entries: map[string]Entry{}, cut: map[string]bool{}}
	if c.Handed >= 0 {
		if err := a.inherit(); err != nil {
			return err
		}
		a.served = true
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			a.sweep()
		}
	}()
	return a.run()
}

// anchor is the state of the process.
type anchor struct {
	Config

	mu       sync.Mutex
	programs programs
	entries  map[string]Entry
	cut      map[string]bool // entries whose last put arrived incomplete
	keeper   int             // its process id; 0 while there is none
	serving  bool            // the keeper serves
	served   bool            // this keeper or an earlier one has served
	released bool
}

// restartPause keeps an anchor from busy-looping if its keeper cannot start, or dies as
// soon as it serves. The pause grows with each failure, but only a little if the keeper
// has served: calls and containers wait. A keeper that has lived for a while is replaced
// at once.
const (
	restartPause    = 10 * time.Millisecond
	restartPauseMax = 2 * time.Second
	servedPauseMax  = 50 * time.Millisecond
	livedEnough     = time.Second
)

func (a *anchor) run() error {
	ready := ReadyFD
	if a.Handed >= 0 {
		ready = -1
	}
	for pause := time.Duration(0); ; time.Sleep(pause) {
		begun := time.Now()
		line, err := a.start(ready)
		if ready >= 0 {
			err, ready = errors.Join(err, unix.Close(ready)), -1
		}
		if err == nil {
			a.lifeOf(line)
		}
		served, over := a.ended(err == nil)
		if over {
			return err
		}
		if !served {
			fmt.Fprintln(os.Stderr, "anchor: the keeper does not start:", err)
		}
		pause = pauseAfter(served, time.Since(begun), pause)
	}
}

// pauseAfter returns how long to wait after a keeper that lived for this long, given the
// previous pause.
func pauseAfter(served bool, lived, before time.Duration) time.Duration {
	longer := max(restartPause, 2*before)
	switch {
	case served && lived >= livedEnough:
		return 0
	case served:
		return min(longer, servedPauseMax)
	}
	return min(longer, restartPauseMax)
}

// lifeOf serves the keeper that was started until that has ended.
func (a *anchor) lifeOf(line int) {
	a.mu.Lock()
	watch := time.AfterFunc(a.programs.patience(), a.giveUp)
	a.mu.Unlock()
	defer watch.Stop()
	a.converse(line)
	a.bury()
}

// giveUp kills a keeper that does not get to serve.
func (a *anchor) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keeper != 0 && !a.serving {
		a.programs.hung()
		_ = unix.Kill(a.keeper, unix.SIGKILL) // not reaped yet, so it is no other process
	}
}

// ended returns whether the last keeper has served, and whether no other may follow.
func (a *anchor) ended(started bool) (served, over bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	served, a.serving = a.serving, false
	if started && !served {
		a.programs.failed++
	}
	return served, a.released || !a.served
}

// start starts a keeper and returns the anchor's end of its line.
func (a *anchor) start(ready int) (line int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pair[1])
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errors.Join(err, unix.Close(pair[0]))
	}
	defer unix.Close(null)
	if ready < 0 {
		ready = null
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(),
		Files: []uintptr{uintptr(null), 1, 2, uintptr(ready), uintptr(pair[1]), uintptr(a.Lock)},
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, program := range a.programs.candidates() {
		a.keeper, err = syscall.ForkExec(program, append([]string{"nodekit-keeper"}, a.Args...), attr)
		if err == nil {
			return pair[0], nil
		}
	}
	a.keeper = 0
	return -1, errors.Join(err, unix.Close(pair[0]))
}

// converse serves the keeper's requests until it is gone.
func (a *anchor) converse(line int) {
	defer unix.Close(line)
	buf := make([]byte, maxPacket)
	for {
		m, files, err := receive(line, buf)
		if errors.Is(err, errNotUnderstood) {
			closeAll(files)
			continue
		}
		if err != nil {
			return
		}
		if err := a.answer(line, m, files); err != nil {
			return
		}
	}
}

// bury waits for the end of a keeper that has closed its line.
func (a *anchor) bury() {
	_ = unix.Kill(a.keeper, unix.SIGKILL) // not reaped yet, so it is no other process
	_ = child.Await(a.keeper)
	a.mu.Lock()
	a.keeper = 0
	a.mu.Unlock()
	a.sweep()
}

func (a *anchor) answer(line int, m *message, files []int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch m.Op {
	case opPut:
		a.put(m, files)
		return nil
	case opDrop:
		a.drop(m.Entry.ID)
	case opServing:
		a.serving, a.served = true, true
		a.programs.served(a.keeper)
	case opProgram:
		a.programs.next, a.programs.failed = m.Program, 0
	case opRelease:
		a.released = true
	case opPeek:
		defer closeAll(files)
		return send(line, peek(m.PID, files), nil)
	case opList:
		for _, e := range a.entries {
			if err := send(line, &message{Op: opList, Entry: &e}, e.Files); err != nil {
				return err
			}
		}
		return send(line, &message{Op: opList, Version: version}, nil)
	case opKept:
		return send(line, &message{Op: opKept, Entry: m.Entry, Kept: !a.cut[m.Entry.ID]}, nil)
	}
	closeAll(files)
	return nil
}

// peek answers a question about a child. Keepers of version 1 send no pidfd, and this
// process may have no descriptor left to receive one.
func peek(pid int, files []int) *message {
	var m message
	var err error
	if m.Op = opPeek; len(files) > 0 {
		m.Ended, m.Code, err = child.PeekFD(files[0])
	} else {
		m.Ended, m.Code, err = child.Peek(pid)
	}
	m.Gone = errors.Is(err, unix.ECHILD)
	return &m
}

// put stores an entry. An incomplete one is worth less than the previous one, which has
// all its descriptors, and is ignored. a.mu is held.
func (a *anchor) put(m *message, files []int) {
	id := m.Entry.ID
	if m.cut {
		fmt.Fprintln(os.Stderr, "anchor: no descriptors are left for", id)
		a.cut[id] = true
		return
	}
	a.drop(id)
	m.Entry.Files = files
	a.entries[id] = *m.Entry
}

// drop removes an entry. a.mu is held.
func (a *anchor) drop(id string) {
	delete(a.cut, id)
	e, ok := a.entries[id]
	if !ok {
		return
	}
	closeAll(e.Files)
	delete(a.entries, id)
	if e.PID != 0 || e.Starting {
		go a.sweep()
	}
}

// sweep reaps strangers that have ended. It stops at a child in an entry; dropping that
// entry sweeps again.
func (a *anchor) sweep() {
	a.mu.Lock()
	defer a.mu.Unlock()
	held := map[int]bool{a.keeper: true, 0: true}
	for _, e := range a.entries {
		if e.Starting {
			return
		}
		held[e.PID] = true
	}
	for {
		pid := child.Ended()
		if held[pid] || child.Reap(pid) != nil {
			return
		}
	}
}

// inherit takes over what Become left.
func (a *anchor) inherit() error {
	f := os.NewFile(uintptr(a.Handed), "entries")
	defer f.Close()
	var list []Entry
	if err := json.NewDecoder(f).Decode(&list); err != nil {
		return fmt.Errorf("reading the entries that were handed on: %w", err)
	}
	for _, e := range list {
		a.entries[e.ID] = e
		for _, fd := range e.Files {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
