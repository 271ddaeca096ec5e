package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/kubeletdir"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// author is a started plugin of the author.
type author struct {
	Plugin
	sign    sign
	at      places
	process *supervisor.Process
}

// startAuthors starts the author's plugins one after another and detects their kinds.
func (n *Node) startAuthors(ctx context.Context) ([]*author, error) {
	if len(n.cfg.Plugins) == 0 {
		return nil, nil
	}
	if err := differ(n.cfg.Plugins); err != nil {
		return nil, err
	}
	release, err := kubeletdir.Hold()
	if err != nil {
		return nil, err
	}
	n.onEnd(release)
	var authors []*author
	for i := range n.cfg.Plugins {
		a, err := n.startAuthor(ctx, &n.cfg.Plugins[i], authors)
		if err != nil {
			return nil, fmt.Errorf("starting plugin %q: %w", n.cfg.Plugins[i].Path, err)
		}
		authors = append(authors, a)
	}
	return authors, placed(&n.cfg, authors)
}

// differ rejects plugins with the same name, because directories are named after them.
func differ(plugins []Plugin) error {
	seen := map[string]string{}
	for i := range plugins {
		p := &plugins[i]
		if other, ok := seen[p.name()]; ok {
			return fault.Invalid.Errorf("the plugins %q and %q have one name, after which their directories are called: rename one", other, p.Path)
		}
		seen[p.name()] = p.Path
	}
	return nil
}

// placed rejects plugins that the node cannot use beside its others.
func placed(cfg *Config, authors []*author) error {
	first := map[Kind]string{}
	for _, a := range authors {
		other, again := first[a.sign.kind]
		first[a.sign.kind] = a.Path
		switch {
		case again && (a.sign.kind == CNI || a.sign.kind == CRI):
			return fault.Invalid.Errorf("the plugins %q and %q are both %s plugins, and a node uses one: leave one out", other, a.Path, a.sign.kind)
		case a.sign.kind == CNI && cfg.CNIConfDir != "":
			return fault.Invalid.Errorf("the CNI plugin %q has no place beside a network configuration of your own: name it there, or leave the configuration out", a.Path)
		case a.sign.kind == CNI && cfg.RuntimeEndpoint != "":
			return fault.Invalid.Errorf("the CNI plugin %q would never be called: the runtime at %q has a network configuration of its own", a.Path, cfg.RuntimeEndpoint)
		case a.sign.kind == CRI && cfg.RuntimeEndpoint != "":
			return fault.Invalid.Errorf("the plugin %q is a runtime, and so is what serves %q: leave one out", a.Path, cfg.RuntimeEndpoint)
		case a.sign.kind == CRI && cfg.CNIConfDir != "":
			return fault.Invalid.Errorf("the plugin %q is a runtime with a network of its own, which does not read %q: configure it there", a.Path, cfg.CNIConfDir)
		}
	}
	if runtime, network := first[CRI], first[CNI]; runtime != "" && network != "" {
		return fault.Invalid.Errorf("the CNI plugin %q would never be called: the runtime %q has a network configuration of its own", network, runtime)
	}
	return nil
}

// startAuthor starts one plugin in addition to those that already run.
func (n *Node) startAuthor(ctx context.Context, p *Plugin, others []*author) (*author, error) {
	start := time.Now()
	env, at := n.surroundings(p)
	for _, o := range others {
		at.others = append(at.others, o.process.PID())
	}
	for _, dir := range append(at.dirs(), env["STATE_DIRECTORY"]) {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
	}
	at.remember()
	stdout := &output{pass: func([]byte) {}}
	if p.Stderr != nil {
		stdout.pass = func(b []byte) { _, _ = p.Stderr.Write(b) } // a plugin's output is only for display
	}
	process, err := supervisor.Start(supervisor.Command{
		Path: p.Path, Args: expand(p.Args, env), Env: environ(env),
		Stdout: stdout, Stderr: cmp.Or[io.Writer](p.Stderr, io.Discard),
		Enter: kubeletdir.Enter(n.cfg.Root),
	})
	if err != nil {
		return nil, err
	}
	n.onEnd(func() error { process.Kill(); return nil })
	s, err := detect(ctx, process, stdout, &at, p.Kind, func(what string) {
		n.cfg.OnPlugin(PluginEvent{Plugin: p.name(), What: what, Took: time.Since(start)})
	})
	if err != nil {
		return nil, err
	}
	n.cfg.OnPlugin(PluginEvent{Plugin: p.name(), What: "is a " + string(s.kind) + " plugin", Took: time.Since(start)})
	return &author{Plugin: *p, sign: s, at: at, process: process}, nil
}

// surroundings returns the environment that a plugin gets in addition to this
// process's, and the places where it may show its kind.
func (n *Node) surroundings(p *Plugin) (map[string]string, places) {
	at := places{
		csi:      filepath.Join(n.cfg.Root, "plugins", p.name(), "csi.sock"),
		cri:      strings.TrimPrefix(n.criEndpoint(), "unix://"),
		registry: filepath.Join(n.cfg.Root, "plugins_registry"),
		devices:  filepath.Join(n.cfg.Root, "device-plugins"),
	}
	env := map[string]string{
		"CSI_ENDPOINT":               "unix://" + at.csi,
		"CONTAINER_RUNTIME_ENDPOINT": "unix://" + at.cri,
		"NODE_ID":                    n.cfg.Name,
		"NODE_NAME":                  n.cfg.Name,
		"KUBE_NODE_NAME":             n.cfg.Name,
		"STATE_DIRECTORY":            filepath.Join(n.cfg.Root, "plugin-state", p.name()),
	}
	if p.Kind == "" || p.Kind == CNI {
		// A CNI plugin answers this and ends; others ignore it.
		env["CNI_COMMAND"] = "VERSION"
	}
	return env, at
}

func environ(extra map[string]string) []string {
	env := os.Environ()
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		env = append(env, name+"="+extra[name])
	}
	return env
}

// keep is the part that keeps the plugin running, and registers it if it relies on
// somebody else for that.
func (n *Node) keep(a *author) {
	n.parts.run("plugin "+a.name(), func(ctx context.Context) error {
		return a.process.Keep(ctx, func(e supervisor.Event) {
			if e.PID == 0 {
				n.cfg.OnPlugin(PluginEvent{Plugin: a.name(), What: fmt.Sprintf("ended (%s), starts again in %v", ending(e.Err), e.Restart), Err: e.Err})
			}
		})
	})
	if a.sign.kind == CSI && !a.sign.registered {
		n.parts.run("registration of "+a.name(), func(ctx context.Context) error { return n.register(ctx, a) })
	}
}

func ending(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// register registers a CSI driver that does not do so itself, as the registrar sidecar
// does in a cluster. It retries if the driver does not report its name: the driver may
// have died, and be restarting.
func (n *Node) register(ctx context.Context, a *author) error {
	info, err := n.askName(ctx, a)
	for wait := askAgainMin; err != nil; wait = min(2*wait, askAgainMax) {
		if ctx.Err() != nil {
			return nil
		}
		n.cfg.OnPlugin(PluginEvent{Plugin: a.name(), What: fmt.Sprintf("does not say its name: %v", err), Err: err})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		info, err = n.askName(ctx, a)
	}
	return registration.Serve(ctx, a.at.registry, registration.Plugin{
		Kind: registration.CSIPlugin, Name: info.Name, Endpoint: a.at.csi, Versions: []string{"1.0.0"},
	}, &registration.Options{Logger: n.cfg.Logger})
}

const (
	askAgainMin = 100 * time.Millisecond
	askAgainMax = 5 * time.Second
	askWithin   = 10 * time.Second
)

func (n *Node) askName(ctx context.Context, a *author) (*client.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	c, err := client.Dial("unix://"+a.at.csi, &client.Options{Observe: n.cfg.Observe})
	if err != nil {
		return nil, err
	}
	info, err := c.GetInfo(ctx)
	return info, errors.Join(err, c.Close())
}
