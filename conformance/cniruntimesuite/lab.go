package cniruntimesuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
)

const (
	network = "suite-net"
	// settle is how long a runtime may take for what it need not do immediately.
	settle = 5 * time.Second
	// beginTime is how long a runtime may take to call a plugin when nothing prevents
	// the call.
	beginTime = 20 * time.Second
	// closeTime bounds how long ending a runtime takes, within a check's cleanup time.
	closeTime = 10 * time.Second
)

// chain holds the types of the network's plugins, in order.
var chain = []string{"suite-a", "suite-b", "suite-c"}

// extra holds further installed types: that of a plugin configured in its own file,
// and loopback, which some runtimes run for every container.
var extra = []string{"suite-d", "loopback"}

// lab is the environment of one check.
type lab struct {
	*Runtime
	target *Target
	dirs   Dirs
	log    string // directory where plugins record calls and find their faults
	out    *slog.Logger
	dir    string
	faults int
	made   []Container
}

// inLab creates a lab for a check, and takes it down afterwards.
func inLab(check func(context.Context, *lab) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) (err error) {
		l := &lab{target: &in.Target, dir: in.TempDir, out: in.Log, log: filepath.Join(in.TempDir, "log")}
		l.dirs = Dirs{Conf: filepath.Join(l.dir, "net.d"), Bin: filepath.Join(l.dir, "bin"), State: filepath.Join(l.dir, "state")}
		defer func() { err = errors.Join(err, l.close(ctx)) }()
		for _, d := range []string{l.dirs.Conf, l.dirs.Bin, l.dirs.State, l.log} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		if err := l.install(); err != nil {
			return err
		}
		return check(ctx, l)
	}
}

// install puts the plugins into their directory.
func (l *lab) install() error {
	command := l.target.Recorder
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		command = []string{self}
	}
	for _, name := range slices.Concat(chain, extra) {
		words := slices.Concat(command, []string{RecorderArg, l.log, name})
		for i, w := range words {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		script := "#!/bin/sh\nexec " + strings.Join(words, " ") + "\n"
		if err := os.WriteFile(filepath.Join(l.dirs.Bin, name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// object is a JSON object.
type object = map[string]any

// plugin returns a plugin's configuration with further keys.
func plugin(kind string, keys object) object {
	out := object{"type": kind}
	for k, v := range keys {
		out[k] = v
	}
	return out
}

// configure writes the network's configuration, with keys replaced or added, and
// starts the runtime if it does not run yet. Its cniVersion is 1.0.0, for runtimes
// that know no newer one; cniVersions offers 1.1.0 too.
func (l *lab) configure(ctx context.Context, keys object) error {
	config := object{"cniVersion": "1.0.0", "cniVersions": []string{"0.4.0", "1.1.0"}, "name": network}
	var plugins []any
	for _, kind := range chain {
		plugins = append(plugins, plugin(kind, nil))
	}
	config["plugins"] = plugins
	for k, v := range keys {
		config[k] = v
	}
	raw, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(l.dirs.Conf, "10-suite.conflist")
	if err := os.WriteFile(file+".tmp", raw, 0o644); err != nil {
		return err
	}
	if err := os.Rename(file+".tmp", file); err != nil || l.Runtime != nil {
		return err
	}
	l.Runtime, err = l.target.Open(ctx, l.dirs)
	if err != nil {
		return fmt.Errorf("starting the runtime: %w", err)
	}
	return nil
}

func (l *lab) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	errs := []error{l.heal()} // so that what remains can be deleted
	if l.Runtime != nil && l.Close != nil {
		if err := l.Close(ctx); err != nil {
			l.out.Warn("ending the runtime", "err", err) // no rule requires it
		}
	}
	for _, c := range l.made {
		if c.NetNS != "" {
			errs = append(errs, netns.Remove(c.NetNS))
		}
	}
	return errors.Join(errs...)
}

// container creates a container that is not connected yet.
func (l *lab) container() (Container, error) {
	n := len(l.made) + 1
	c := Container{ID: fmt.Sprintf("suite-%d", n), IfName: "eth0"}
	if !l.target.OwnNetNS {
		c.NetNS = filepath.Join(l.dir, fmt.Sprintf("netns-%d", n))
		if err := netns.Create(c.NetNS); err != nil {
			return c, err
		}
	}
	l.made = append(l.made, c)
	return c, nil
}

// prepare makes the plugin do something other than succeed, at its next call of this
// verb for which no fault is prepared yet.
func (l *lab) prepare(plugin, verb string, f fault) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	l.faults++
	return os.WriteFile(faultFile(l.log, plugin, verb, l.faults), raw, 0o666)
}

// release lets the held calls of the command answer, and later calls too.
func (l *lab) release(command string) error {
	return os.WriteFile(releaseFile(l.log, command), nil, 0o666)
}

// heal ends all faults.
func (l *lab) heal() error {
	files, err := filepath.Glob(filepath.Join(l.log, "*.*.*"))
	errs := []error{err, l.release("ADD"), l.release("DEL"), l.release("GC")}
	for _, file := range files {
		if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// added configures the network with further keys and returns a container that Add
// has connected.
func (l *lab) added(ctx context.Context, keys object) (Container, error) {
	if err := l.configure(ctx, keys); err != nil {
		return Container{}, err
	}
	c, err := l.container()
	if err != nil {
		return c, err
	}
	return c, l.mustAdd(ctx, c)
}

func (l *lab) mustAdd(ctx context.Context, c Container) error {
	if err := l.Add(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not add the container: %w", err)
	}
	return nil
}

func (l *lab) mustDel(ctx context.Context, c Container) error {
	if err := l.Del(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not delete the container: %w", err)
	}
	return nil
}

// addedAndDeleted adds and deletes one container, and returns the calls.
func (l *lab) addedAndDeleted(ctx context.Context) (calls, error) {
	c, err := l.added(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := l.mustDel(ctx, c); err != nil {
		return nil, err
	}
	return l.calls()
}

// await waits until missing returns nil for the calls so far; at the deadline it
// returns what missing returned.
func (l *lab) await(ctx context.Context, within time.Duration, missing func(calls) error) error {
	for deadline := time.Now().Add(within); ; {
		cs, err := l.calls()
		if err != nil {
			return err
		}
		err = missing(cs)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitBegin waits for a call to begin, and returns how long it took.
func (l *lab) awaitBegin(ctx context.Context, plugin, verb string) (took time.Duration, err error) {
	start := time.Now()
	err = l.await(ctx, beginTime, func(cs calls) error {
		if cs.of(verb).last(plugin) == nil {
			return fmt.Errorf("%s of %s was not called", verb, plugin)
		}
		return nil
	})
	return time.Since(start), err
}

// watch gives calls that must not begin the time to begin: several times as long as a
// permitted call took. A runtime slower than that is not blamed.
func (l *lab) watch(ctx context.Context, took time.Duration, verb string, n int) {
	const least, times = 300 * time.Millisecond, 3
	_ = l.await(ctx, max(least, times*took), func(cs calls) error { return began(cs, verb, n) }) // what began shows later
}

// need says that rules about a verb do not apply to a runtime without it.
func need(has bool, verb string) error {
	if has {
		return nil
	}
	return conformance.NotApplicable("the runtime has no %s that the suite could call", verb)
}
