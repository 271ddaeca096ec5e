package csisuite

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

const (
	startTimeout = 10 * time.Second // of a driver, until Probe answers ready
	callTimeout  = 15 * time.Second
	stopTimeout  = 10 * time.Second
	settle       = 3 * time.Second // how long the kernel may take to remove things
)

// session is one rule's conversation with the driver. It records what it requested,
// so that close can undo it.
type session struct {
	*client.Client
	info    *client.Info
	dir     string // the rule's TempDir
	target  Target
	before  *leak.Snapshot
	process *supervisor.Process // nil for an endpoint

	volumes  []string                     // ids to delete
	attached map[string]map[string]string // publish contexts by id
	staged   []string                     // ids to unstage
	targets  map[string][]string          // target paths by id
}

// with runs a check in a session and undoes everything afterwards, even if the check
// fails.
func with(check func(context.Context, *session) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) error {
		s, err := open(ctx, in)
		if err != nil {
			return err
		}
		err = check(ctx, s)
		if err != nil && s.process != nil {
			if said := strings.TrimSpace(s.process.Tail()); said != "" {
				in.Log.InfoContext(ctx, "the driver's output", "text", said)
			}
		}
		return errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
}

func open(ctx context.Context, in *conformance.Input[Target]) (*session, error) {
	// The kernel shows resolved paths.
	dir, err := filepath.EvalSymlinks(in.TempDir)
	if err != nil {
		return nil, err
	}
	s := &session{dir: dir, target: in.Target, attached: map[string]map[string]string{}, targets: map[string][]string{}}
	if err := s.target.Volume.complete(in.Profile); err != nil {
		return nil, err
	}
	for _, d := range []string{s.stagingRoot(), s.targetRoot(), s.state()} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, err
		}
	}
	if s.before, err = leak.Take(s.scope()); err != nil {
		return nil, fmt.Errorf("looking at the machine before the check: %w", err)
	}
	endpoint := in.Target.Endpoint
	if len(in.Target.Exec) > 0 {
		endpoint = s.socket()
		if s.process, err = supervisor.Start(s.command()); err != nil {
			return nil, fmt.Errorf("starting the driver: %w", err)
		}
	}
	if s.Client, err = client.Dial(endpoint, &client.Options{Timeout: callTimeout, Observe: call.Logged(in.Log)}); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Close(), s.stop())
	}
	return s, nil
}

// prepare reports what would fail every rule and says nothing about the driver. It is
// the suite's Prepare. A driver that itself reports to be unhealthy is left to the
// rules, so that there is a report.
func prepare(ctx context.Context, target Target) error {
	if os.Geteuid() != 0 {
		return errors.New("mounting volumes needs root: run it as root")
	}
	if len(target.Exec) > 0 {
		return nil
	}
	c, err := client.Dial(target.Endpoint, &client.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.Ready(ctx); err != nil && !unhealthy(err) {
		return fmt.Errorf("no driver is ready at %s: start it first, or name the socket of one that runs: %w", target.Endpoint, err)
	}
	return nil
}

// unhealthy reports whether the error is a driver's answer to Probe that waiting does
// not change. A peer without Probe is hardly a driver.
func unhealthy(err error) bool {
	return !client.Uncertain(err) && status.Code(err) != codes.Unimplemented
}

// scope is everything that a driver could leave in this rule's directory, and the
// processes that know the directory.
func (s *session) scope() leak.Scope {
	prefix := map[leak.Kind][]string{leak.Mount: {s.dir + "/"}, leak.Loop: {s.dir + "/"}}
	return leak.Scope{
		Kinds:    []leak.Kind{leak.Mount, leak.Loop, leak.Process, leak.File},
		Prefixes: prefix, Marker: s.dir + "/", Dirs: []string{s.stagingRoot(), s.targetRoot()},
	}
}

func (s *session) stagingRoot() string       { return filepath.Join(s.dir, "staging") }
func (s *session) targetRoot() string        { return filepath.Join(s.dir, "targets") }
func (s *session) state() string             { return filepath.Join(s.dir, "state") }
func (s *session) socket() string            { return "unix://" + filepath.Join(s.dir, "csi.sock") }
func (s *session) path(target string) string { return filepath.Join(s.targetRoot(), target) }
func (s *session) staging(id string) string {
	return filepath.Join(s.stagingRoot(), fmt.Sprintf("%x", sha256.Sum256([]byte(id)))[:16])
}

func (s *session) command() supervisor.Command {
	vars := []string{"CSI_ENDPOINT", s.socket(), "STATE_DIRECTORY", s.state(), "NODE_ID", "csisuite"}
	env := os.Environ()
	var inArgs []string
	for pair := range slices.Chunk(vars, 2) {
		env = append(env, pair[0]+"="+pair[1])
		inArgs = append(inArgs, "$("+pair[0]+")", pair[1])
	}
	replace := strings.NewReplacer(inArgs...)
	var args []string
	for _, a := range s.target.Exec[1:] {
		args = append(args, replace.Replace(a))
	}
	for _, e := range s.target.Env {
		env = append(env, replace.Replace(e))
	}
	return supervisor.Command{Path: replace.Replace(s.target.Exec[0]), Args: args, Env: env}
}

// ready waits for the driver and asks what it can do.
func (s *session) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.process != nil {
		go func(ended <-chan struct{}) { // no need to wait for a driver that is dead
			select {
			case <-ended:
				cancel()
			case <-ctx.Done():
			}
		}(s.process.Done())
	}
	err := s.Ready(ctx)
	if err != nil && unhealthy(err) {
		return fmt.Errorf("not tried, for the driver is not healthy: %w", answered("Probe", err, "OK"))
	}
	if err == nil {
		s.info, err = s.GetInfo(ctx)
	}
	if err != nil {
		return s.unready(err)
	}
	return nil
}

// unready returns why the driver is not ready.
func (s *session) unready(err error) error {
	if s.process == nil {
		return fmt.Errorf("the driver did not become ready within %s: %w", startTimeout, err)
	}
	printed := "nothing"
	if tail := strings.TrimSpace(s.process.LifeTail()); tail != "" {
		printed = tail
	}
	select {
	case <-s.process.Done():
		return fmt.Errorf("the driver ended (%s) before it was ready\nit printed: %s", s.process.Ending(), printed)
	default:
	}
	if path := strings.TrimPrefix(s.socket(), "unix://"); !present(path) {
		return fmt.Errorf("the driver runs, and makes no socket at %s, which it is given as CSI_ENDPOINT and for %s\nit printed: %s", path, Endpoint, printed)
	}
	return fmt.Errorf("the driver did not become ready within %s: %w\nit printed: %s", startTimeout, err, printed)
}

func present(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// kill ends the driver with SIGKILL.
func (s *session) kill() { s.process.Kill() }

// restart starts the killed driver again.
func (s *session) restart(ctx context.Context) error {
	if err := s.process.Restart(); err != nil {
		return fmt.Errorf("starting the driver again: %w", err)
	}
	return s.ready(ctx)
}

// canKill returns NotApplicable for a driver that the suite did not start.
func (s *session) canKill() error {
	if s.process == nil {
		return conformance.NotApplicable("the driver runs already: rules that kill it need --exec")
	}
	return nil
}

func (s *session) stop() error {
	if s.process == nil {
		return nil
	}
	select {
	case <-s.process.Done():
		return nil
	default:
		return s.process.Stop(stopTimeout)
	}
}

// close undoes what the check left, whatever the driver answers, and ends the driver.
func (s *session) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for id, targets := range s.targets {
		for _, t := range targets {
			s.NodeUnpublish(ctx, id, t) //nolint:errcheck // the rule has its verdict already
		}
	}
	for _, id := range s.staged {
		s.NodeUnstage(ctx, id, s.staging(id)) //nolint:errcheck // as above
	}
	for id := range s.attached {
		s.ControllerUnpublish(ctx, id, s.info.NodeID, nil) //nolint:errcheck // as above
	}
	for _, id := range s.volumes {
		s.DeleteVolume(ctx, id, nil) //nolint:errcheck // as above
	}
	return errors.Join(s.Close(), s.stop(), mount.DetachTree(s.dir))
}
