package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// engine is an OCI runtime program.
type engine struct {
	path  string // of the program
	root  string // its --root, for the state of its containers
	users bool   // it runs containers in user namespaces on this machine: see try
}

// args returns the command line of one invocation, which writes its errors to log.
func (e engine) args(log, verb string, rest ...string) []string {
	return append([]string{e.path, "--root", e.root, "--log", log, "--log-format", "json", verb}, rest...)
}

// runArgs returns the command line that runs a container in the cgroup, with the verb
// "run" or "restore".
func (e engine) runArgs(log, cg, verb string, rest ...string) []string {
	args := e.args(log, verb, rest...)
	if cgroup.IsUnit(cg) {
		args = slices.Insert(args, 1, "--systemd-cgroup")
	}
	return args
}

// stateDir is where the engine keeps its state of a container.
func (e engine) stateDir(id string) string { return filepath.Join(e.root, id) }

// dropState removes the engine's state of a container. A killed runc may have left its
// own program mounted there, on the file from which it executes itself.
func (e engine) dropState(id string) error {
	dir := e.stateDir(id)
	err := os.RemoveAll(dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := mount.DetachTree(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// chooseEngine finds the default OCI runtime. An empty name means crun if it works,
// because it is several times faster, else runc. A runtime that nobody has named and that
// has no alternative is taken unseen: a container more would delay each start, and its
// error shows with the first Pod.
func chooseEngine(ctx context.Context, c *Config, root string) (engine, error) {
	names := []string{"crun", "runc"}
	if c.Runtime != "" {
		names = []string{c.Runtime}
	}
	var candidates []engine
	var failed []error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		candidates = append(candidates, engine{path: path, root: root})
	}
	for i, e := range candidates {
		var err error
		if alternative := i < len(candidates)-1; alternative {
			err = e.probe(ctx, c, nil)
		}
		if err == nil {
			e.users = e.runsUsers(ctx, c)
		}
		if err == nil && c.Runtime != "" && !e.users {
			err = e.probe(ctx, c, nil)
		}
		if err == nil {
			c.Logger.Info("oci runtime chosen", "path", e.path)
			return e, nil
		}
		c.Logger.Info("oci runtime does not work here", "path", e.path, "err", err)
		failed = append(failed, err)
	}
	why := errors.Join(failed...)
	switch {
	case c.Runtime != "" && len(candidates) > 0:
		return engine{}, fault.FailedPrecondition.Errorf("the OCI runtime %q does not work on this machine: choose another, or name none: %w", c.Runtime, why)
	case c.Runtime != "":
		return engine{}, fault.FailedPrecondition.Errorf("the OCI runtime %q cannot be executed: install it, or name none: %w", c.Runtime, why)
	}
	return engine{}, fault.FailedPrecondition.Errorf("no OCI runtime is installed (apt-get install runc): %w", why)
}

// try finds out whether the OCI runtime works on this machine, and whether with user
// namespaces. Most do both, and that takes one container.
func (e engine) try(ctx context.Context, c *Config) (engine, error) {
	if e.users = e.runsUsers(ctx, c); e.users {
		return e, nil
	}
	return e, e.probe(ctx, c, nil)
}

// runsUsers reports whether the OCI runtime runs a container in a user namespace.
func (e engine) runsUsers(ctx context.Context, c *Config) bool {
	err := e.probeUsers(ctx, c)
	if err != nil {
		c.Logger.Info("no user namespaces with this oci runtime", "path", e.path, "err", err)
	}
	return err == nil
}

// probe runs a minimal container, in the user namespace of u if that is not nil, because
// a version number does not tell whether a runtime works with this machine's cgroups and
// namespaces: crun, for one, refuses a host in cgroup hybrid mode.
func (e engine) probe(ctx context.Context, c *Config, u *ownUsers) (err error) {
	id := "probe-" + randomID()
	parent, _ := c.driven(c.CgroupParent)
	cg := cgroupIn(parent, id)
	bundle := filepath.Join(c.RunDir, rootsDir, id)
	defer func() {
		err = errors.Join(err, cgroup.Destroy(cg), e.dropState(id), os.RemoveAll(bundle))
	}()
	doc := bareSpec(c.Keeper, cg, "/keeper", "true")
	u.join(doc)
	if err := writeBundle(bundle, doc, u); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	log, pid := filepath.Join(bundle, "log"), filepath.Join(bundle, "pid")
	args := e.runArgs(log, cg, "run", "--bundle", bundle, "--pid-file", pid, id)
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %s", e.path, firstText(logMessage(log), string(out), err.Error()))
	}
	if _, err := os.Stat(pid); err != nil { // any program may end with 0
		return fmt.Errorf("%s: it started no container: is it an OCI runtime?", e.path)
	}
	return nil
}

// writeBundle writes the bundle of a bare container. Its root must be accessible to the
// container's user; the bundle around it is for root alone, or for the root of the user
// namespace if there is one.
func writeBundle(bundle string, s *specs.Spec, u *ownUsers) error {
	root := filepath.Join(bundle, "rootfs")
	for _, dir := range []string{root, filepath.Join(root, "dev")} { // crun requires /dev to exist
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o755), u.give(dir)); err != nil {
			return err
		}
	}
	if err := u.give(bundle); err != nil {
		return err
	}
	return writeJSON(filepath.Join(bundle, "config.json"), s)
}

// bareSpec is a container that sees one program and nothing else.
func bareSpec(program, cg string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Args: args, Cwd: "/", NoNewPrivileges: true,
			User:         specs.User{UID: 65535, GID: 65535},
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			{Destination: args[0], Type: "bind", Source: program, Options: []string{"bind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: specPath(cg),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			MaskedPaths: []string{"/proc/keys", "/proc/kcore", "/proc/timer_list", "/proc/sched_debug"},
		},
	}
}

// logMessage returns the last error that an engine wrote to its log.
func logMessage(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var last string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var line struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Level == "error" {
			last = line.Msg
		}
	}
	return last
}

func firstText(texts ...string) string {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			return t
		}
	}
	return ""
}
