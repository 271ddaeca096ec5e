package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Launch configures the start of a keeper.
type Launch struct {
	Binary string // the keeper program, absolute
	State  string // directory of its journal, made by the caller; survives a reboot
	Run    string // directory of its socket, made by the caller; the socket is root's alone
	Log    string // file for its messages
	// Place moves a process, and thus the keeper that it starts a moment later, to
	// where it is to live: a cgroup that survives when the caller's is killed. If Place
	// fails, Start returns its error and starts no keeper. Nil leaves the process where
	// the caller is.
	Place func(ctx context.Context, pid int) error
	// NoExitInfo keeps the keeper from asking the kernel for exits that neither it nor
	// its anchor can wait for, as if the kernel were older than Linux 6.15.
	NoExitInfo bool
}

// checkWithin is how long a program may take to show that it is a keeper.
const checkWithin = 10 * time.Second

// Check returns fault.FailedPrecondition if there is no keeper program, of any version,
// at that path. It runs the program without arguments, which a keeper refuses.
func Check(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	var said strings.Builder
	cmd := exec.CommandContext(ctx, program)
	cmd.Stderr, cmd.WaitDelay = &said, time.Second
	err := cmd.Run()
	var refused *exec.ExitError
	switch {
	case errors.As(err, &refused) && strings.Contains(said.String(), wire.NoRole):
		return nil
	case err == nil || refused != nil:
		return fault.FailedPrecondition.Errorf("the program %q is not nodekit's keeper: name the one that comes with nodekit, or build it with go build ./cmd/keeper", program)
	}
	return fault.FailedPrecondition.Errorf("the keeper program cannot be run: %w", err)
}

// Start starts a keeper and returns once it accepts calls. The keeper is not a child of
// the caller. If another keeper already runs, or starts first, Start does nothing.
func Start(ctx context.Context, l Launch) error {
	err := l.start(ctx)
	if err == nil || errors.Is(err, fault.AlreadyExists) {
		return nil
	}
	return fmt.Errorf("starting keeper %q: %w", l.Binary, err)
}

func (l Launch) start(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { _ = r.Close() })()
	log, err := os.OpenFile(l.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer log.Close()
	// Not CommandContext: the launcher ends within a millisecond, and the keeper must
	// outlive ctx.
	args := []string{"start", "--state", l.State, "--run", l.Run}
	if l.NoExitInfo { // a keeper of protocol 1 does not know the flag
		args = append(args, "--exit-info=false")
	}
	cmd := exec.Command(l.Binary, args...)
	cmd.Stderr, cmd.ExtraFiles = log, []*os.File{w}
	err = l.launch(ctx, cmd)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return wire.AwaitReady(r)
}

// launch runs the launcher, which waits for a word on its standard input, then starts the
// keeper and exits. If the word does not come, because Place failed or this process died,
// it exits without starting one.
func (l Launch) launch(ctx context.Context, cmd *exec.Cmd) error {
	word, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if l.Place != nil {
		err = l.Place(ctx, cmd.Process.Pid)
	}
	if err == nil {
		_, err = io.WriteString(word, wire.Launch)
	}
	err = errors.Join(err, word.Close())
	return errors.Join(err, cmd.Wait())
}
