package cri

import (
	"slices"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// What an author sees and what is recorded are the same data, in types of the two
// packages. What the author was given belongs to the author: records are copies of it.

func viewSandbox(r *record.Sandbox) *Sandbox { return (*Sandbox)(r) }

func (s *Sandbox) record() *record.Sandbox {
	r := record.Sandbox(*s)
	r.IPs, r.State = slices.Clone(r.IPs), slices.Clone(r.State)
	return &r
}

// pinned is a Sandbox or a Container.
type pinned interface{ pin() (putBack func()) }

func allPinned(sandboxes []*Sandbox, containers []*Container) (all []pinned) {
	for _, s := range sandboxes {
		all = append(all, s)
	}
	for _, c := range containers {
		all = append(all, c)
	}
	return all
}

// pin returns a function that restores the fields that an author may not change
// (Sandbox), and that would make the record inconsistent.
func (s *Sandbox) pin() (putBack func()) {
	was := *s
	return func() {
		restore(&s.ID, was.ID)
		restore(&s.Config, was.Config)
		restore(&s.Handler, was.Handler)
		restore(&s.CreatedAt, was.CreatedAt)
		restore(&s.Dir, was.Dir)
	}
}

// pin is Sandbox.pin for a container.
func (c *Container) pin() (putBack func()) {
	was := *c
	return func() {
		restore(&c.ID, was.ID)
		restore(&c.Sandbox, was.Sandbox)
		restore(&c.CreatedAt, was.CreatedAt)
		restore(&c.Dir, was.Dir)
		if !c.StartedAt.IsZero() { // only Recover can tell that a start was never begun
			restore(&c.StartedAt, was.StartedAt)
		}
		if c.Config == nil {
			c.Config = was.Config
		}
	}
}

// restore writes nothing if nothing was changed: what the author started may be reading.
func restore[T comparable](field *T, was T) {
	if *field != was {
		*field = was
	}
}

func viewContainer(r *record.Container) *Container {
	return &Container{
		ID: r.ID, Sandbox: viewSandbox(r.Sandbox), Config: r.Config, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
		Exit: (*Exit)(r.Exit), ImageRef: r.ImageRef, LogPath: r.LogPath,
		User: r.User, StopSignal: r.StopSignal, Dir: r.Dir, State: r.State,
	}
}

func (c *Container) record() *record.Container {
	return &record.Container{
		ID: c.ID, Sandbox: c.Sandbox.record(), Config: c.Config, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt,
		Exit: (*record.Exit)(c.Exit), ImageRef: record.Text(c.ImageRef), LogPath: c.LogPath,
		User: proto.Clone(c.User).(*runtimeapi.LinuxContainerUser), StopSignal: c.StopSignal, Dir: c.Dir, State: slices.Clone(c.State),
	}
}
