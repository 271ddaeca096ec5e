package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cri/oci/class"
	"github.com/nodekit-project/nodekit/cri/oci/image/archive"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

const defaultUnitDir = "/etc/systemd/system"

// unitFlags select the unit file.
type unitFlags struct{ dir, name string }

func (f *unitFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "unit-dir", defaultUnitDir, "`directory` of the unit file")
	cmd.Flags().StringVar(&f.name, "name", "nodekit", "`name` of the unit; a second node on a machine needs another")
}

// resolve checks the flags and makes the directory absolute.
func (f *unitFlags) resolve() (err error) {
	if f.name, err = unitName(f.name); err != nil {
		return err
	}
	return absolute(&f.dir)
}

func (f *unitFlags) path() string { return filepath.Join(f.dir, f.name) }

// read returns the unit file, or nil if there is none. If install did not write it, the
// error is fault.AlreadyExists.
func (f *unitFlags) read() ([]byte, error) {
	have, err := os.ReadFile(f.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(have, []byte(unitMark+"\n")) {
		return nil, fault.AlreadyExists.Errorf("%s was not written by nodekit install, and is not replaced: choose another --name, or remove it", f.path())
	}
	return have, nil
}

// install is one run of `nodekit install`.
type install struct {
	nodeFlags
	unitFlags
	now, print bool
}

func newInstallCommand() *cobra.Command {
	var f install
	cmd := &cobra.Command{
		Use:   "install [--now]",
		Short: "Install a node as a systemd service on this machine",
		Long: `Install writes a systemd unit that runs "nodekit node" with the given flags, and reloads
systemd. With --now it also enables and starts the unit, or restarts it if it has changed.
Containers keep running while the unit is stopped, restarted or upgraded.

  nodekit install --now                       # Pods come from /etc/nodekit/manifests
  nodekit install --print --gpus 4            # show the unit and change nothing
  nodekit install --unit-dir ./image/units    # only write the file, for another machine

To change the flags, run the command again. To upgrade, replace the program nodekit and
run "systemctl restart nodekit". To remove the unit, run nodekit uninstall.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.install(cmd) },
	}
	f.nodeFlags.addTo(cmd, defaultManifests)
	f.unitFlags.addTo(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&f.now, "now", false, "enable the unit and start it")
	fs.BoolVar(&f.print, "print", false, "print the unit and change nothing")
	cmd.MarkFlagsMutuallyExclusive("now", "print")
	return cmd
}

func (f *install) install(cmd *cobra.Command) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	if err := f.resolve(); err != nil {
		return err
	}
	text, err := f.unit(cmd, &cfg)
	if err != nil {
		return err
	}
	if f.print {
		_, err := cmd.OutOrStdout().Write(text)
		return err
	}
	if err := f.check(cmd, &cfg); err != nil {
		return err
	}
	changed, err := f.write(text, cfg.Manifests)
	if err != nil {
		return err
	}
	return f.activate(cmd, changed)
}

func (f *install) unit(cmd *cobra.Command, cfg *node.Config) ([]byte, error) {
	program, err := ownPath()
	if err != nil {
		return nil, err
	}
	args, err := unitArguments(cmd)
	if err != nil {
		return nil, err
	}
	u := unit{Program: program, Args: args, Root: cfg.Root, Run: cfg.Run, Manifests: cfg.Manifests}
	return u.text()
}

// check rejects, before anything is written, what cannot lead to a running node.
func (f *install) check(cmd *cobra.Command, cfg *node.Config) error {
	running := cgroup.Systemd()
	if !running && (f.now || !cmd.Flags().Changed("unit-dir")) {
		return fault.FailedPrecondition.Errorf("this machine does not run systemd: start \"nodekit node\" from its own init system, " +
			"or write the unit for another machine with --unit-dir and without --now")
	}
	if _, err := os.Stat(f.dir); errors.Is(err, os.ErrNotExist) {
		return fault.NotFound.Errorf("there is no directory %s for the unit: make it first, or name another with --unit-dir", f.dir)
	}
	if running && !cmd.Flags().Changed("unit-dir") {
		if err := f.checkFiles(cfg); err != nil {
			return err
		}
	}
	if f.now {
		return node.CheckHost(cfg)
	}
	return nil
}

// checkFiles rejects files without which the node would not start. Another machine's
// need not be here.
func (f *install) checkFiles(cfg *node.Config) error {
	for _, path := range cfg.Images {
		if err := archive.Check(path); err != nil {
			return fault.Invalid.Errorf("--image-archive %q: %w", path, err)
		}
	}
	if _, err := class.LoadBlockIO(cfg.BlockIOClasses, slog.New(slog.DiscardHandler)); err != nil {
		return fmt.Errorf("--blockio-config-file: %w", err)
	}
	for _, p := range []struct{ flag, path string }{{"--oci-runtime", cfg.OCIRuntime}, {"--keeper", cfg.Keeper}} {
		if p.path == "" {
			continue
		}
		if err := checkProgram(p.path); err != nil {
			return fault.Invalid.Errorf("%s %q: %w", p.flag, p.path, err)
		}
	}
	return nil
}

// write writes the unit and reports whether that changed anything.
func (f *install) write(text []byte, manifests string) (changed bool, err error) {
	have, err := f.read()
	if err != nil {
		return false, err
	}
	if manifests == defaultManifests && cgroup.Systemd() {
		if err := os.MkdirAll(manifests, 0o755); err != nil {
			return false, err
		}
	}
	if bytes.Equal(have, text) {
		return false, nil
	}
	return true, atomicfile.Write(f.path(), text, 0o644)
}

// activate makes systemd load the unit, and run it if the user wants that.
func (f *install) activate(cmd *cobra.Command, changed bool) error {
	say := func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
	what := "%s is written"
	if !changed {
		what = "%s is up to date"
	}
	say(what, f.path())
	if !cgroup.Systemd() {
		say("this machine does not run systemd; on one that does: systemctl daemon-reload && systemctl enable --now %s", f.name)
		return nil
	}
	if err := systemctl(cmd.Context(), "daemon-reload"); err != nil {
		return err
	}
	read, err := f.loaded(cmd.Context())
	switch {
	case err != nil:
		return err
	case !read && f.now:
		return fault.FailedPrecondition.Errorf("systemd does not read units from %s: omit --unit-dir", f.dir)
	case !read:
		say("systemd does not read units from there: the unit is for another machine")
		return nil
	case !f.now:
		say("to start it now and at every boot: systemctl enable --now %s", f.name)
		return nil
	}
	stale, err := f.stale(cmd.Context())
	if err != nil {
		return err
	}
	if err := f.start(cmd.Context(), changed || stale); err != nil {
		return err
	}
	say("%s is running: the kubelet's HTTP API is at %s", f.name, filepath.Join(f.run, "nodekit.sock"))
	return nil
}

// ownPath returns a path of this program that will also lead to its next version: the
// one by which it was called, including links, if that leads here.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self, nil
	}
	is, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	if other, err := os.Stat(called); err != nil || !os.SameFile(is, other) {
		return self, nil
	}
	return filepath.Abs(called)
}
