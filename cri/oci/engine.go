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
	path string // of the program
	root string // its --root, for the state of its containers
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

// chooseEngine finds the OCI runtime. An empty name means crun if it works, because it is
// several times faster, else runc. A runtime without an alternative is not probed: its
// error shows when a container starts.
func chooseEngine(ctx context.Context, c *Config, root string) (engine, error) {
	names := []string{"crun", "runc"}
	if c.Runtime != "" {
		names = []string{c.Runtime}
	}
	var candidates []engine
	var tried []error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		candidates = append(candidates, engine{path: path, root: root})
	}
	for i, e := range candidates {
		if i < len(candidates)-1 {
			if err := e.probe(ctx, c, nil); err != nil {
				c.Logger.Info("oci runtime does not work here", "path", e.path, "err", err)
				continue
			}
		}
		c.Logger.Info("oci runtime chosen", "path", e.path)
		return e, nil
	}
	if c.Runtime != "" {
		return engine{}, fault.FailedPrecondition.Errorf("the OCI runtime %q is not there: install it, or name none: %w", c.Runtime, errors.Join(tried...))
	}
	return engine{}, fault.FailedPrecondition.Errorf("no OCI runtime is installed (apt-get install runc): %w", errors.Join(tried...))
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
	log := filepath.Join(bundle, "log")
	args := e.runArgs(log, cg, "run", "--bundle", bundle, id)
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %s", e.path, firstText(logMessage(log), string(out), err.Error()))
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
