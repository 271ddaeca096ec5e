// Package cnibench compares the CNI plugins with upstream's, in every way in which a
// runtime can call them, and with the minimum that the machine needs.
//
// Isolate executes the program again in new namespaces; Run measures there, and changes
// what it finds without asking. The tools that upstream's plugins need from the
// machine, iptables and nft, are used as they are; a side whose tool is missing is
// omitted, and the report says so.
package cnibench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/tables"
	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/bench"
)

// Options configures a run.
type Options struct {
	CNI      string // nodekit's plugins, one executable
	Shim     string // the executable that forwards calls to a daemon
	Upstream string // directory of upstream's; missing ones are omitted
	Data     string // directory for reservations; empty: one in memory
	Rounds   int    // samples of each side
	Only     []string
	Progress io.Writer
	Out      io.Writer
}

func all() []tables.Table[*lab] {
	return []tables.Table[*lab]{
		{Name: "floors", Run: (*lab).floors},
		{Name: "bridge", Run: (*lab).bridge},
		{Name: "masquerade", Run: (*lab).masquerade},
		{Name: "portmap", Run: (*lab).portmap},
		{Name: "teardown", Run: (*lab).teardown},
		{Name: "parallel", Run: (*lab).parallel},
		{Name: "ipam", Run: (*lab).ipam},
	}
}

// Names returns the names of the tables, for Options.Only.
func Names() string { return tables.Names(all()) }

// Run measures, and writes each table as soon as it is complete. It must run in the
// namespaces that Isolate creates, and only once.
func Run(ctx context.Context, o *Options) error {
	if err := tables.Check(all(), o.Only); err != nil {
		return err
	}
	if err := settleIn(); err != nil {
		return err
	}
	l := &lab{Options: *o, leave: func() error { return nil }}
	ctx, stop := context.WithCancel(ctx)
	err := l.open(ctx)
	if err == nil {
		err = tables.Run(ctx, all(), l.Only, l)
	}
	stop()
	return errors.Join(err, l.serving.Wait(), l.leave())
}

// door is a way in which a runtime calls the plugins.
type door struct {
	name     string
	upstream bool
	backend  string // for the rules of upstream's plugins
	resident bool   // nothing is executed
	call     func(ctx context.Context, plugin string, env map[string]string, stdin []byte) ([]byte, error)
}

// lab is a run.
type lab struct {
	Options
	doors    []door
	serving  errgroup.Group // the daemon
	leave    func() error   // waits for what the resident plugins still do
	count    int            // of what has needed a name
	networks int            // made by newNetwork
	staying  int            // neighbours
}

func (l *lab) open(ctx context.Context) error {
	if l.Data == "" {
		l.Data = filepath.Join(home, "data")
		if err := os.Mkdir(l.Data, 0o700); err != nil {
			return err
		}
	}
	if err := install(l.CNI, ours, plugins...); err != nil {
		return err
	}
	connect, leave := bridge.Resident()
	forward, disconnect := portmap.Resident()
	l.leave = func() error { return errors.Join(leave(), disconnect()) }
	set := cni.Set{"bridge": connect, "host-local": hostlocal.Plugin(), "portmap": forward}
	l.doors = []door{{name: "nodekit", call: executed(ours)}, {name: "nodekit in process", resident: true, call: set.Invoke}}
	daemon, err := l.daemon(ctx, set)
	if err != nil {
		return err
	}
	l.doors = append(l.doors, daemon)
	l.doors = append(l.doors, l.upstream()...)
	return nil
}

// daemon serves the plugins in this process, and returns the door of a runtime
// that executes shims.
func (l *lab) daemon(ctx context.Context, set cni.Set) (d door, err error) {
	if err := errors.Join(install(l.Shim, shims, plugins...), os.Mkdir(cni.DefaultSocketDir, 0o700)); err != nil {
		return d, err
	}
	s := &cni.Server{Dir: cni.DefaultSocketDir, Plugins: slices.Collect(maps.Values(set))}
	l.serving.Go(func() error { return s.Serve(ctx) }) // a shim waits until it answers
	return door{name: "nodekit, shim and daemon", call: executed(shims)}, nil
}

// plugins are the measured plugins.
var plugins = []string{"bridge", "host-local", "portmap"}

// Where they are installed, each in a directory of its own.
const (
	ours   = home + "/bin"
	shims  = home + "/shims"
	theirs = home + "/upstream" // with programs that do next to nothing
)

// install creates the directory with a copy of the executable under the names. A copied
// file executes slightly faster than one in the state in which the linker left it, and
// nodes never have the latter.
func install(executable, dir string, names ...string) error {
	content, err := os.ReadFile(executable)
	if err != nil {
		return fmt.Errorf("looking for the plugins: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, names[0]), content, 0o700); err != nil {
		return err
	}
	for _, name := range names[1:] {
		if err := os.Symlink(names[0], filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// upstream returns the doors to upstream's plugins, and reports those that are missing.
func (l *lab) upstream() (doors []door) {
	for _, name := range append(slices.Clone(plugins), "nothing", "least") {
		if err := install(filepath.Join(l.Upstream, name), theirs, name); err != nil {
			fmt.Fprintf(l.Out, "Upstream's plugins are not measured: %v. make upstream builds them.\n", err)
			l.Upstream = ""
			return nil
		}
	}
	for backend, tool := range map[string]string{"iptables": "iptables", "nftables": "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(l.Out, "Upstream's plugins are not measured with %s: %v\n", backend, err)
			continue
		}
		doors = append(doors, door{name: "upstream, " + backend, upstream: true, backend: backend, call: executed(theirs)})
	}
	slices.SortFunc(doors, func(a, b door) int { return strings.Compare(a.name, b.name) })
	return doors
}

// executed returns the calls of a runtime that executes the plugins in the directory.
func executed(dir string) func(context.Context, string, map[string]string, []byte) ([]byte, error) {
	return func(ctx context.Context, plugin string, env map[string]string, stdin []byte) ([]byte, error) {
		env["CNI_PATH"], env["PATH"] = dir, os.Getenv("PATH")
		return cni.Exec(ctx, filepath.Join(dir, plugin), env, stdin, nil)
	}
}

// measure runs the sides in turn and writes the table.
func (l *lab) measure(ctx context.Context, title string, rounds int, sides []bench.Side) error {
	t, err := bench.Run(ctx, sides, &bench.Options{Rounds: rounds, Progress: l.Progress})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.Out, "\n%s\n", title)
	return errors.Join(err, t.Write(l.Out))
}

// next returns an unused number.
func (l *lab) next() int {
	l.count++
	return l.count
}
