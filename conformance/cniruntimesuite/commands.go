package cniruntimesuite

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// Commands are a runtime's verbs as command lines for /bin/sh. Environment variables
// describe the container ($ID, $NETNS, $IFNAME, $CAP_ARGS, which is a JSON object, and
// $CNI_ARGS), the directories ($CONF_DIR, $BIN_DIR and $STATE_DIR) and the attachments
// that GC keeps ($VALID_ATTACHMENTS, a JSON list). A non-zero exit code means failure.
// An empty command is a verb that the runtime does not have; Add and Del are required.
type Commands struct {
	Add, Del, Check, GC, Status string
	// Serve runs the runtime's daemon, if it has one. It is killed at the end.
	// Without it a restart kills the running commands and what they started.
	Serve string
	// Ready is repeated after the start of Serve until it succeeds.
	Ready string
	// OwnNetNS and Ports are those of Target.
	OwnNetNS, Ports bool
}

// Target returns the runtime that the commands drive.
func (c Commands) Target() Target {
	return Target{Open: c.open, OwnNetNS: c.OwnNetNS, Ports: c.Ports}
}

// commander is a runtime driven by commands.
type commander struct {
	Commands
	dirs   Dirs
	daemon *supervisor.Process // nil without Serve

	mu      sync.Mutex
	running map[*supervisor.Process]bool // commands
}

func (c Commands) open(ctx context.Context, d Dirs) (*Runtime, error) {
	r := &commander{Commands: c, dirs: d, running: map[*supervisor.Process]bool{}}
	rt := &Runtime{Add: r.verb(c.Add), Del: r.verb(c.Del), Check: r.verb(c.Check), Restart: r.restart}
	if c.GC != "" {
		rt.GC = r.collect
	}
	if c.Status != "" {
		rt.Status = func(ctx context.Context) error { return r.run(ctx, c.Status) }
	}
	if c.Serve == "" {
		return rt, nil
	}
	var err error
	r.daemon, err = supervisor.Start(supervisor.Command{Path: "/bin/sh", Args: []string{"-c", "exec " + c.Serve}, Env: r.env()})
	if err != nil {
		return nil, err
	}
	rt.Close = func(context.Context) error { return r.daemon.Stop(closeTime / 2) }
	if err := r.await(ctx); err != nil {
		r.daemon.Kill()
		return nil, err
	}
	return rt, nil
}

func (r *commander) restart(ctx context.Context) error {
	if r.daemon == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		for p := range r.running {
			p.Kill()
		}
		return nil
	}
	if err := r.daemon.Restart(); err != nil {
		return err
	}
	return r.await(ctx)
}

// await repeats Ready until it succeeds.
func (r *commander) await(ctx context.Context) error {
	for r.Ready != "" {
		err := r.run(ctx, r.Ready)
		if err == nil {
			break
		}
		select {
		case <-r.daemon.Done():
			return fmt.Errorf("the runtime ended (%s) before it was ready: %w\nit printed: %s", r.daemon.Ending(), err, r.daemon.LifeTail())
		case <-ctx.Done():
			return fmt.Errorf("the runtime is not ready: %w\nit printed: %s", err, r.daemon.LifeTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func (r *commander) verb(command string) func(context.Context, Container) error {
	if command == "" {
		return nil
	}
	return func(ctx context.Context, c Container) error {
		return r.run(ctx, command, "ID="+c.ID, "NETNS="+c.NetNS, "IFNAME="+c.IfName, "CAP_ARGS="+c.CapabilityArgs(),
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=suite;K8S_POD_NAME="+c.ID)
	}
}

func (r *commander) collect(ctx context.Context, valid []Container) error {
	entries := make([]string, len(valid))
	for i, c := range valid {
		entries[i] = fmt.Sprintf(`{"containerID":%q,"ifname":%q}`, c.ID, c.IfName)
	}
	return r.run(ctx, r.GC, "VALID_ATTACHMENTS=["+strings.Join(entries, ",")+"]")
}

func (r *commander) env(more ...string) []string {
	env := append(os.Environ(), "CONF_DIR="+r.dirs.Conf, "BIN_DIR="+r.dirs.Bin, "STATE_DIR="+r.dirs.State)
	return append(env, more...)
}

func (r *commander) run(ctx context.Context, command string, env ...string) error {
	r.mu.Lock() // a restart sees all commands that were started
	p, err := supervisor.Start(supervisor.Command{Path: "/bin/sh", Args: []string{"-c", command}, Env: r.env(env...)})
	if err == nil {
		r.running[p] = true
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, p)
	}()
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(p.Tail()))
	}
	return nil
}
