// Package cribench measures CRI runtimes with one client program: the reference runtime
// with crun and with runc, containerd, if installed, with the same, and any other
// socket.
//
// Run must be called in new namespaces (isolate.Run, with processes), and changes what
// it finds without asking. The sides take turns (internal/bench). A side whose programs
// are missing is omitted, and the report says so.
package cribench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/isolate"
	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/tables"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// Options configures a run.
type Options struct {
	Nodekit  string   // the nodekit executable; its helpers are in the same directory
	Podtool  string   // the program of the containers, static
	CNI      string   // directory of the CNI plugins that containerd gets
	Endpoint []string // sockets of other runtimes, as NAME=ENDPOINT or NAME@HANDLER=ENDPOINT; they must have Image
	Image    string   // name of the containers' image
	Rounds   int      // samples of one Pod; tables of many Pods have fewer
	Pods     int      // of the tables with many
	Only     []string // tables; empty: all
	Sides    []string // prefixes of the names of sides; empty: all
	Progress io.Writer
	Out      io.Writer
}

func all() []tables.Table[*lab] {
	return []tables.Table[*lab]{
		{Name: "floor", Run: (*lab).floor},
		{Name: "pod", Run: (*lab).pod},
		{Name: "crowd", Run: (*lab).crowd},
		{Name: "exit", Run: (*lab).exit},
		{Name: "memory", Run: (*lab).memory},
	}
}

// Names returns the names of the tables, for Options.Only.
func Names() string { return tables.Names(all()) }

// lab is a run.
type lab struct {
	Options
	dir   string // all files of the run
	group string // cgroup of all containers
	sides []*side
	count int // Pods so far
}

// Run measures, and writes each table as soon as it is complete.
func Run(ctx context.Context, o *Options) (err error) {
	if err := tables.Check(all(), o.Only); err != nil {
		return err
	}
	if err := isolate.Loopback(); err != nil {
		return err
	}
	l := &lab{Options: *o}
	if l.dir, err = os.MkdirTemp("", "nkb-"); err != nil {
		return err
	}
	l.group = "/nodekit-" + strings.ToLower(filepath.Base(l.dir))
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.open(ctx); err != nil {
		return err
	}
	return tables.Run(ctx, all(), l.Only, l)
}

// close stops the runtimes and removes what the run has created.
func (l *lab) close() error {
	var errs []error
	for _, s := range l.sides {
		errs = append(errs, s.close())
	}
	errs = append(errs, cgroup.Kill(l.group), cgroup.Remove(l.group), removeMounted(l.dir))
	return errors.Join(errs...)
}

// uses reports whether a side with the OCI runtime is to be measured.
func (l *lab) uses(engine string) bool {
	return l.wanted("nodekit, "+engine) || l.wanted("containerd, "+engine)
}

// wanted reports whether a side is to be measured.
func (l *lab) wanted(name string) bool {
	return len(l.Sides) == 0 || slices.ContainsFunc(l.Sides, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// measure runs the sides in turn and writes the table.
func (l *lab) measure(ctx context.Context, title string, rounds int, run func(context.Context, *side) (bench.Sample, error), sides []*side) error {
	var all []bench.Side
	for _, s := range sides {
		all = append(all, bench.Side{Name: s.name, Run: func(ctx context.Context) (bench.Sample, error) { return run(ctx, s) }})
	}
	return l.table(ctx, title, rounds, all)
}

func (l *lab) table(ctx context.Context, title string, rounds int, sides []bench.Side) error {
	t, err := bench.Run(ctx, sides, &bench.Options{Rounds: rounds, WarmUp: 1, Progress: l.Progress})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.Out, "\n%s\n", title)
	return errors.Join(err, t.Write(l.Out))
}
