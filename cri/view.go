package cri

import "github.com/nodekit-project/nodekit/cri/internal/record"

// What an author sees and what is on record are the same data, in types of the
// two packages: a Sandbox is a record.Sandbox by another name.

func viewSandbox(r *record.Sandbox) *Sandbox { return (*Sandbox)(r) }

func (s *Sandbox) record() *record.Sandbox { return (*record.Sandbox)(s) }

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
