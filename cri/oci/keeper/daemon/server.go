package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/bootid"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
	"github.com/nodekit-project/nodekit/internal/panics"
)

// server is the keeper process.
type server struct {
	run      string // directory of its socket
	log      *slog.Logger
	journal  *journal.Journal
	escrow   *escrow
	streams  *streams
	children *children
	quit     context.CancelFunc
	ending   atomic.Int32 // execs of an earlier keeper that are being ended

	mu         sync.Mutex
	containers map[string]*container
	exits      uint64        // how many have been seen
	over       bool          // it is ending, and its anchor with it
	changed    chan struct{} // closed and replaced when an exit is added

	// rest releases the memory of a burst of calls after the last one.
	rest *time.Timer
}

// restAfter is how long after the last call the keeper counts as idle.
const restAfter = time.Second

// serve answers calls until a shutdown is requested. ready is called when the socket
// accepts connections.
func serve(o *options, ready func() error) (err error) {
	j, err := openJournal(o.state, o.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &server{
		run: o.run, log: o.log, journal: j, escrow: o.escrow, quit: cancel,
		containers: map[string]*container{}, changed: make(chan struct{}), rest: time.AfterFunc(restAfter, debug.FreeOSMemory),
	}
	defer s.leave()
	defer func() { err = errors.Join(err, j.Close()) }()
	stop, err := s.restore(o.exitInfo)
	if err != nil {
		return err
	}
	defer stop()
	l, err := wire.Listen(o.run, wire.SocketName)
	if err != nil {
		return fmt.Errorf("opening socket: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	if err := ready(); err != nil {
		return err
	}
	if err := s.escrow.line.Serving(); err != nil {
		return err
	}
	return s.accept(ctx, l)
}

// leave removes the files that announce the keeper, once this one has served for the last
// time and has released everything else: another one may be started then.
func (s *server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		return // the anchor starts another one
	}
	for _, name := range []string{wire.SocketName, wire.LockName} {
		if err := os.Remove(filepath.Join(s.run, name)); err != nil {
			s.log.Error("ending", "err", err)
		}
	}
}

// journalLimit is how long a thread of the previous keeper, or a program that it was
// about to start, may hold the journal's lock.
const journalLimit = 5 * time.Second

// openJournal opens the journal of exits. Exits are not synced, so a power loss may have
// damaged it: a damaged journal of an earlier boot is put aside, with the exits of
// containers that ended with their machine.
func openJournal(dir string, log *slog.Logger) (*journal.Journal, error) {
	path, bootFile := filepath.Join(dir, "exits"), filepath.Join(dir, "boot")
	boot, rebooted, err := bootid.Changed(bootFile)
	if err != nil {
		return nil, err
	}
	j, err := awaitJournal(path)
	if rebooted && errors.Is(err, fault.Invalid) {
		log.Error("the journal of exits did not survive a loss of power and is begun anew", "err", err, "put aside", path+".damaged")
		if err = journal.PutAside(path); err == nil {
			j, err = awaitJournal(path)
		}
	}
	if err != nil || !rebooted {
		return j, err
	}
	if err := bootid.Note(bootFile, boot); err != nil { // the disk may be full: then the anchor keeps exits
		log.Error("noting the boot of the journal of exits", "err", err)
	}
	return j, nil
}

func awaitJournal(path string) (*journal.Journal, error) {
	for deadline := time.Now().Add(journalLimit); ; time.Sleep(time.Millisecond) {
		j, err := journal.Open(path)
		if !errors.Is(err, fault.AlreadyExists) || time.Now().After(deadline) {
			return j, err
		}
	}
}

// accept serves connections until ctx ends. Any other error, usually a lack of
// descriptors, may be temporary or not, and must not affect the containers.
func (s *server) accept(ctx context.Context, l *net.UnixListener) error {
	for failed := false; ; {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failed = false
			go s.handle(ctx, conn)
			continue
		case !failed:
			failed = true // the thousands that may follow say the same
			s.log.Error("accepting a connection", "err", err)
		}
		time.Sleep(acceptPause)
	}
}

// acceptPause keeps a keeper that cannot accept connections from busy-looping.
const acceptPause = 50 * time.Millisecond

func newContainer(id string) *container { return &container{id: id, ended: make(chan struct{})} }

// handle serves one connection: see wire.InTurn.
func (s *server) handle(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		s.log.Error("refusing a connection", "err", err)
		return
	}
	for s.answer(ctx, conn) {
	}
}

// answer serves one call, and reports whether another one may follow. Once ctx has ended
// it serves none: the client then calls the next keeper.
func (s *server) answer(ctx context.Context, conn *net.UnixConn) bool {
	defer s.rest.Reset(restAfter)
	var req wire.Request
	files, err := wire.Receive(conn, &req)
	defer wire.CloseAll(files)
	switch {
	case errors.Is(err, fault.Exhausted):
	case err != nil, ctx.Err() != nil:
		return false // a client that went away, or has no more to ask
	case req.Version > wire.Protocol:
		err = fault.FailedPrecondition.Errorf("the keeper speaks protocol %d and was asked in %d: it must be replaced", wire.Protocol, req.Version)
	default:
		err = s.call(conn, &req, files)
	}
	if err != nil {
		_ = wire.Send(conn, wire.Failure(err)) // a client that went away learns nothing
		return false
	}
	return wire.InTurn(req.Op)
}

// checkPeer admits only the keeper's own user. The socket's mode does so, too; this also
// holds if the run directory's permissions were widened.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	if int(cred.Uid) != os.Geteuid() {
		return fault.PermissionDenied.Errorf("user %d is not the keeper's", cred.Uid)
	}
	return nil
}

// call serves a request. An error that it returns is sent as the reply. A panic is turned
// into an error: a request that crashed the keeper would be repeated with the next one,
// and the one after it.
func (s *server) call(conn *net.UnixConn, req *wire.Request, files []*os.File) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p := panics.Of(v)
			s.log.Error("a call panicked", "op", req.Op, "panic", p.Value, "stack", p.Stack())
			err = fault.Internal.Errorf("%s panicked: %v, at %s", req.Op, p.Value, p.Place())
		}
	}()
	if err := req.Check(); err != nil {
		return err
	}
	switch req.Op {
	case wire.OpHello:
		return wire.Send(conn, wire.Reply{Hello: &wire.Hello{Protocol: wire.Protocol, PID: os.Getpid(), Anchor: os.Getppid()}})
	case wire.OpStart:
		st, err := s.start(req.ID, req.Start)
		return done(conn, wire.Reply{Status: &st}, err)
	case wire.OpRuntime:
		return s.runtime(conn, req.Command)
	case wire.OpSignal:
		return s.signal(conn, req)
	case wire.OpList:
		return wire.Send(conn, wire.Reply{List: s.list()})
	case wire.OpAck:
		return done(conn, wire.Reply{}, s.acknowledge(req.ID))
	case wire.OpRemove:
		return done(conn, wire.Reply{}, s.remove(req.ID))
	case wire.OpReopen:
		return done(conn, wire.Reply{}, s.reopen(req.ID))
	case wire.OpWait:
		return s.wait(conn, req.ID)
	case wire.OpWatch:
		return s.watch(conn)
	case wire.OpExec:
		return s.exec(conn, req.Command, files)
	case wire.OpAttach:
		return s.attach(conn, req.ID, req.Attach)
	case wire.OpShutdown:
		return s.shutdown(conn)
	case wire.OpReplace:
		return s.replace(conn, req.Program)
	}
	return fault.Unimplemented.Errorf("the keeper does not know %q", req.Op)
}

func done(conn *net.UnixConn, r wire.Reply, err error) error {
	if err != nil {
		return err
	}
	return wire.Send(conn, r)
}

// gone returns a context that ends when the client closes its connection.
func gone(conn *net.UnixConn) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, conn)
	}()
	return ctx
}

// claim returns the container, new or known, with its life held. A keeper that is ending
// accepts no new one: nobody would read its output.
func (s *server) claim(id string) (*container, error) {
	for {
		c := s.known(id)
		if c == nil {
			return nil, fault.Unavailable.Errorf("the keeper is ending")
		}
		c.life.Lock()
		if s.lookup(id) == c {
			return c, nil
		}
		c.life.Unlock() // removed while we waited
	}
}

// known returns the container, which is created unless the keeper is ending.
func (s *server) known(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil && !s.over {
		c = newContainer(id)
		s.containers[id] = c
	}
	return c
}

func (s *server) lookup(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

func (s *server) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] != c {
		return
	}
	delete(s.containers, c.id)
	if c.exit == nil {
		close(c.ended) // for those who wait for a container that never started
	}
}

func (s *server) statusOf(c *container) wire.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.status()
}

// list waits for starts in progress, so that each container has a process or an exit, but
// not for long: a start that hangs, for example on a disk that does not respond, is
// reported as starting. It waits equally long for the end of an earlier keeper's execs: a
// new server requests the list before it removes their directories.
func (s *server) list() []wire.Status {
	s.mu.Lock()
	containers := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	var all []wire.Status
	deadline := time.Now().Add(listLimit)
	for s.ending.Load() > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	for _, c := range containers {
		settled := c.lockLife(deadline)
		if s.lookup(c.id) == c {
			all = append(all, s.statusOf(c))
		}
		if settled {
			c.life.Unlock()
		}
	}
	return all
}

// listLimit is how long list waits: longer than a known end is held back, except when the
// disk of its log does not respond.
const listLimit = drainLimit + 100*time.Millisecond

// lockLife locks the container's life if it can before the deadline.
func (c *container) lockLife(deadline time.Time) bool {
	for !c.life.TryLock() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// notify wakes every watcher. s.mu is held.
func (s *server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// unacknowledged returns the exits after seq that the server has not recorded,
// in order, and the channel that is closed when there are more.
func (s *server) unacknowledged(seq uint64) (list []*container, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.exit != nil && !c.acked && c.seq > seq {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *container) int { return cmp.Compare(a.seq, b.seq) })
	return list, s.changed
}
