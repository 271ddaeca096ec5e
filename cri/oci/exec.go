package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// exec runs a command in a container.
func (r *Runtime) exec(ctx context.Context, c *cri.Container, argv []string, s cri.Streams) (int32, error) {
	r.cgroups.Keep()
	dir := r.run("exec", randomID())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, fmt.Errorf("executing in container %q: %w", c.ID, err)
	}
	defer os.RemoveAll(dir)
	cmd, err := r.execCommand(c, argv, s.TTY, dir)
	if err != nil {
		return 0, err
	}
	streams, err := newExecStreams(s, r.nulls.open)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	p, err := r.keeper.Exec(ctx, cmd, streams.child)
	streams.closeChild()
	if err != nil {
		if msg := logMessage(filepath.Join(dir, "log")); msg != "" {
			err = fault.Of(err).Wrap(errors.New(msg))
		}
		return 0, fmt.Errorf("executing in container %q: %w", c.ID, err)
	}
	streams.copy(s, p.Terminal)
	code, err := p.Wait()
	if err != nil {
		streams.cut()
		return 0, fmt.Errorf("executing in container %q: %w", c.ID, err)
	}
	streams.drain(ctx)
	return code, nil
}

// execCommand writes the process document: the container's own process with
// another program.
func (r *Runtime) execCommand(c *cri.Container, argv []string, tty bool, dir string) (*keeper.Command, error) {
	e, _, err := r.engineOf(c)
	if err != nil {
		return nil, err
	}
	doc, err := readSpec(r.bundleOf(c))
	if err != nil {
		return nil, err
	}
	doc.Process.Args, doc.Process.Terminal = argv, tty
	if err := writeJSON(filepath.Join(dir, "process.json"), doc.Process); err != nil {
		return nil, err
	}
	rest := []string{"--detach", "--pid-file", filepath.Join(dir, "pid"), "--process", filepath.Join(dir, "process.json")}
	if tty {
		rest = append(rest, "--console-socket", consoleName(tty))
	}
	return &keeper.Command{
		Args: e.args(filepath.Join(dir, "log"), "exec", append(rest, c.ID)...),
		Dir:  dir, PIDFile: "pid", Console: consoleName(tty), OOMScoreAdj: doc.Process.OOMScoreAdj,
	}, nil
}

// execStreams are the pipes between the client's streams and the program's.
type execStreams struct {
	child [3]*os.File // the program's ends
	own   [3]*os.File // ours; nil for streams that are not requested
	outs  sync.WaitGroup
	ways  []*way // one for each output
}

// newExecStreams uses null devices for streams that are not requested. With a terminal,
// only the OCI runtime sees the streams.
func newExecStreams(s cri.Streams, null func() (*os.File, error)) (x *execStreams, err error) {
	x = &execStreams{}
	defer func() {
		if err != nil {
			x.closeChild()
			x.close()
		}
	}()
	for i, wanted := range []bool{s.Stdin != nil, s.Stdout != nil, s.Stderr != nil} {
		switch {
		case s.TTY:
			x.child[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		case !wanted:
			x.child[i], err = null()
		case i == 0:
			x.child[0], x.own[0], err = os.Pipe()
		default:
			x.own[i], x.child[i], err = os.Pipe()
		}
		if err != nil {
			return nil, err
		}
	}
	return x, nil
}

// copy starts moving bytes. With a terminal, tty takes the place of the pipes.
func (x *execStreams) copy(s cri.Streams, tty *os.File) {
	if tty != nil {
		x.own = [3]*os.File{tty, tty, nil}
		go func() {
			for size := range s.Resize {
				_ = keeper.Resize(tty, size.Width, size.Height) // the terminal may be gone
			}
		}()
	}
	if s.Stdin != nil {
		go func() {
			_, _ = io.Copy(x.own[0], s.Stdin) // the program may not read it
			if tty == nil {
				_ = x.own[0].Close()
			}
		}()
	}
	for i, to := range map[int]io.Writer{1: s.Stdout, 2: s.Stderr} {
		if from := x.own[i]; from != nil && to != nil {
			w := newWay(from, to)
			x.ways = append(x.ways, w)
			x.outs.Go(w.copy)
		}
	}
}

// drainLimit is how long to wait for more output, after the program has ended and the
// client has everything written before, while a child of the program still holds the
// streams.
const drainLimit = time.Second

// drain waits until everything that the program wrote has been copied, for as long as the
// client takes or until ctx ends.
func (x *execStreams) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		x.outs.Wait()
		close(done)
	}()
	for _, w := range x.ways {
		w.end()
	}
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for until := time.Now().Add(drainLimit); time.Now().Before(until); {
		select {
		case <-done:
			return
		case <-ctx.Done():
			x.cut()
			return
		case <-look.C:
		}
		if slices.ContainsFunc(x.ways, func(w *way) bool { return !w.delivered() }) {
			until = time.Now().Add(drainLimit)
		}
	}
	x.cut()
}

// drainLook is the interval between two checks of the client's progress.
const drainLook = 20 * time.Millisecond

// cut ends the copies of the output: nothing may be written to the client after exec
// returned.
func (x *execStreams) cut() {
	closeFiles(x.own[1:])
	x.outs.Wait()
}

func (x *execStreams) closeChild() { closeFiles(x.child[:]) }

func (x *execStreams) close() { closeFiles(x.own[:]) }

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // pipes and terminals: nothing is buffered
		}
	}
}

// attach connects the streams of the client to those of the container's own program.
func (r *Runtime) attach(ctx context.Context, c *cri.Container, s cri.Streams) error {
	a, err := r.keeper.Attach(ctx, c.ID, s.Stdin != nil)
	if err != nil {
		return fmt.Errorf("attaching to container %q: %w", c.ID, whileRunning(c, err))
	}
	defer a.Close()
	if s.Stdin != nil {
		go func() {
			if _, err := io.Copy(a, s.Stdin); err == nil {
				_ = a.CloseStdin()
			}
		}()
	}
	if s.TTY {
		go func() {
			for size := range s.Resize {
				_ = a.Resize(size.Width, size.Height)
			}
		}()
	}
	return a.Copy(s.Stdout, s.Stderr)
}
