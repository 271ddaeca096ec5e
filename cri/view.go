package cri

import "github.com/nodekit-project/nodekit/cri/internal/record"

// What an author sees and what is recorded are the same data, in types of the two
// packages: a Sandbox is a record.Sandbox by another name.

func viewSandbox(r *record.Sandbox) *Sandbox { return (*Sandbox)(r) }

func (s *Sandbox) record() *record.Sandbox { return (*record.Sandbox)(s) }

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
		s.ID, s.Config, s.Handler, s.CreatedAt, s.Dir = was.ID, was.Config, was.Handler, was.CreatedAt, was.Dir
	}
}

// pin is Sandbox.pin for a container.
func (c *Container) pin() (putBack func()) {
	was := *c
	return func() {
		c.ID, c.Sandbox, c.CreatedAt, c.Dir = was.ID, was.Sandbox, was.CreatedAt, was.Dir
		if !c.StartedAt.IsZero() { // only Recover can tell that a start was never begun
			c.StartedAt = was.StartedAt
		}
		if c.Config == nil {
			c.Config = was.Config
		}
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
		User: c.User, StopSignal: c.StopSignal, Dir: c.Dir, State: c.State,
	}
}
