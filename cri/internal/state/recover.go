package state

import "github.com/nodekit-project/nodekit/cri/internal/record"

// Load fills the table with what an earlier server recorded. What is partly created or
// partly removed is shown as not ready, or as exited.
func (t *Table) Load() error {
	all, err := t.records.Load()
	if err != nil {
		return err
	}
	if len(all.Lost) > 0 {
		t.log.Warn("the machine has stopped while records were written: they are removed, with what was kept for them", "lost", all.Lost)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, r := range all.Sandboxes {
		s := newSandbox(r, all.Phase(id))
		r.Ready = r.Ready && s.Whole()
		t.sandboxes[id] = s
	}
	for id, r := range all.Containers {
		c := newContainer(t.sandboxes[r.Sandbox.ID], r, all.Phase(id))
		if !c.Whole() && r.Exit == nil {
			r.Exit = record.Exit{
				Code: 137, Reason: "ContainerStatusUnknown", Message: "the server ended while it made or removed the container",
			}.Normal()
			close(c.ended)
		}
		t.add(c)
	}
	return nil
}

// Whole reports whether the sandbox was fully created and its removal has not begun.
func (s *Sandbox) Whole() bool { return s.phase == record.Live }

// Whole reports the same for the container, which is not whole if its sandbox is not.
func (c *Container) Whole() bool { return c.phase == record.Live && c.Sandbox.Whole() }

// AdoptSandbox takes over what Recover corrected in a sandbox of the table, and records
// it if it differs.
func (t *Table) AdoptSandbox(next *record.Sandbox) error {
	s, err := t.Sandbox(next.ID)
	if err != nil {
		return err
	}
	was := s.Now()
	s.cur.Store(next)
	if sameSandbox(was, next) {
		return nil
	}
	return t.records.PutSandbox(next, s.phase)
}

// AdoptContainer is AdoptSandbox for containers.
func (t *Table) AdoptContainer(next *record.Container) error {
	c, err := t.Container(next.ID)
	if err != nil {
		return err
	}
	was := c.Now()
	if next.Exit != nil {
		next.Exit = next.Exit.Normal()
	}
	c.cur.Store(next)
	if next.Exit != nil && was.Exit == nil {
		close(c.ended)
	}
	if sameContainer(was, next) && (was.Exit == nil) == (next.Exit == nil) {
		return nil
	}
	return t.records.PutContainer(next, c.phase)
}
