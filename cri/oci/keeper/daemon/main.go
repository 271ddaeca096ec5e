// Package daemon is the keeper process (see package keeper for what it is and what
// survives what): cmd/keeper is just Main of this package.
//
// An idle container costs descriptors and some small structures: one poller waits for all
// of them, and a goroutine with a buffer is started only when there is something to do.
// The package links neither grpc nor k8s.io.
package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/pause"
)

// options are the arguments of the keeper process, and its anchor.
type options struct {
	state    string // directory of its journal
	run      string // directory of its socket
	exitInfo bool   // the kernel may be asked for exits of processes with another parent
	lock     int    // of an anchor; see anchor.Config
	handed   int
	log      *slog.Logger
	escrow   *escrow
}

// Main is the keeper program. Its first argument says what it is:
//
//	start   start an anchor that is no child of the caller, and return
//	anchor  be the anchor, which starts the keeper
//	run     be the keeper
//	pause   be the first process of a PID namespace that containers share
//	true    do nothing, inside a container that shows whether containers work
//
// start, anchor and run take --state and --run. start expects an open pipe as
// descriptor 3, and waits for a word on its standard input, until its caller has
// put it into the cgroup in which the keeper is to live; at the end of the input
// it does nothing.
func Main(args []string) error {
	if len(args) == 0 {
		return fault.Invalid.Errorf("%s: start, anchor, run or pause is missing", wire.NoRole)
	}
	switch args[0] {
	case "start":
		return daemonize(args[1:])
	case "anchor":
		return tellFailure(runAnchor(args[1:]))
	case "run":
		return tellFailure(run(args[1:]))
	case "pause":
		pause.Run()
		return nil
	case "true":
		return nil
	}
	return fault.Invalid.Errorf("%q is none of start, anchor, run and pause", args[0])
}

// daemonize starts the anchor in a session of its own, as an orphan that init adopts.
func daemonize(args []string) error {
	if word, _ := io.ReadAll(os.Stdin); string(word) != wire.Launch {
		return nil // the caller has changed its mind, or died
	}
	// Descriptors that the caller has left open must not reach the containers. Before
	// Linux 5.11 this call fails, and then it is the caller's task.
	_ = unix.CloseRange(anchor.ReadyFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = syscall.ForkExec(self, append([]string{"nodekit-keeper", "anchor"}, args...), &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), 1, 2, anchor.ReadyFD}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

func runAnchor(args []string) error {
	syscall.CloseOnExec(anchor.ReadyFD)
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.handed < 0 {
		if o.lock, err = anchor.Lock(filepath.Join(o.run, wire.LockName)); err != nil {
			return err
		}
	}
	protect()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return anchor.Run(anchor.Config{Program: self, Args: append([]string{"run"}, o.args()...), Lock: o.lock, Handed: o.handed})
}

// tellFailure reports an error to whoever started the anchor and waits for it to be
// ready.
func tellFailure(err error) error {
	if err != nil {
		_, _ = unix.Write(anchor.ReadyFD, fmt.Appendf(nil, "%s %v\n", fault.Of(err), err))
	}
	return err
}

func run(args []string) error {
	for _, fd := range []int{anchor.ReadyFD, anchor.LockFD} {
		syscall.CloseOnExec(fd)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	protect()
	o.escrow = newEscrow(anchor.NewLine(anchor.LineFD), append([]string{"anchor"}, o.args()...), o.log)
	return serve(o, func() error {
		// Whoever waited may be gone: a keeper that has nothing and that nobody wants
		// ends, and its anchor with it.
		_, err := unix.Write(anchor.ReadyFD, []byte(wire.Ready+"\n"))
		return errors.Join(err, unix.Dup3(0, anchor.ReadyFD, unix.O_CLOEXEC))
	})
}

func parse(args []string) (*options, error) {
	o := &options{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("keeper", flag.ContinueOnError)
	flags.StringVar(&o.state, "state", "", "directory of the journal")
	flags.StringVar(&o.run, "run", "", "directory of the socket")
	flags.BoolVar(&o.exitInfo, "exit-info", true, "ask the kernel for exits that nobody here can wait for")
	flags.IntVar(&o.lock, "lock", -1, "descriptor of the lock, of an anchor that was a keeper")
	flags.IntVar(&o.handed, "handed", -1, "descriptor of what an anchor that was a keeper takes along")
	if err := flags.Parse(args); err != nil {
		return nil, fault.Invalid.Wrap(err)
	}
	return o, nil
}

// args returns the arguments that the anchor and the keeper have in common. Keepers of
// other versions get them, too.
func (o *options) args() []string {
	args := []string{"--state", o.state, "--run", o.run}
	if !o.exitInfo {
		args = append(args, "--exit-info=false")
	}
	return args
}

// protect makes the keeper the last process that the OOM killer chooses, and keeps its
// heap small.
func protect() {
	// This fails without CAP_SYS_RESOURCE, and then the keeper is killed like any other
	// process. Every container's value is set separately.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	debug.SetGCPercent(25)
}
