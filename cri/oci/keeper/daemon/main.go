// Package daemon is the keeper process (see package keeper for what it is and
// what survives what): cmd/keeper is Main of this package and nothing else.
//
// One goroutine waits for each container and one reads each of its outputs;
// an output that is idle costs no buffer. The package links neither grpc nor
// k8s.io.
package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// options are the arguments of the keeper process.
type options struct {
	state string // directory of its journal
	run   string // directory of its socket
	log   *slog.Logger
}

// readyFD is the descriptor on which a new keeper says that it serves.
const readyFD = 3

// Main is the keeper program. Its first argument says what it is:
//
//	start  start a keeper that is no child of the caller, and return
//	run    be the keeper
//	pause  be the first process of a PID namespace that containers share
//	true   do nothing, inside a container that shows whether containers work
//
// start and run take --state and --run, and expect an open pipe as descriptor 3.
// start waits for a word on its standard input, until its caller has put it into
// the cgroup in which the keeper is to live; at the end of the input it does nothing.
func Main(args []string) error {
	if len(args) == 0 {
		return fault.Invalid.Errorf("the keeper is started by the runtime server: start, run or pause is missing")
	}
	switch args[0] {
	case "start":
		return daemonize(args[1:])
	case "run":
		return run(args[1:])
	case "pause":
		return pause()
	case "true":
		return nil
	}
	return fault.Invalid.Errorf("%q is none of start, run and pause", args[0])
}

// daemonize starts the keeper in a session of its own and leaves it to init.
func daemonize(args []string) error {
	if word, _ := io.ReadAll(os.Stdin); string(word) != wire.Launch {
		return nil // the caller thought better of it, or died
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = syscall.ForkExec(self, append([]string{"nodekit-keeper", "run"}, args...), &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), 1, 2, readyFD}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

func run(args []string) error {
	ready := os.NewFile(readyFD, "ready")
	defer ready.Close()
	syscall.CloseOnExec(readyFD)
	err := runOptions(args, func() error {
		_, err := io.WriteString(ready, wire.Ready+"\n")
		return errors.Join(err, ready.Close())
	})
	if err != nil {
		// Until it was ready, the one who started it reads this.
		_, _ = fmt.Fprintf(ready, "%s %v\n", fault.Of(err), err)
	}
	return err
}

func runOptions(args []string, ready func() error) error {
	o := options{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("keeper", flag.ContinueOnError)
	flags.StringVar(&o.state, "state", "", "directory of the journal")
	flags.StringVar(&o.run, "run", "", "directory of the socket")
	if err := flags.Parse(args); err != nil {
		return fault.Invalid.Wrap(err)
	}
	protect()
	return serve(o, ready)
}

// protect makes the keeper the last process that the kernel kills for memory
// and keeps its heap small.
func protect() {
	// Refused without CAP_SYS_RESOURCE, and then the keeper is an ordinary
	// process. The OCI runtime sets the value of every container itself.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	debug.SetGCPercent(25)
}
