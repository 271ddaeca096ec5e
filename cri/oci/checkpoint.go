package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/changeset"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// criuPatience is how long criu may take to find out whether it can work.
const criuPatience = 10 * time.Second

// checkpoints are what this machine can do: nothing where criu, which every OCI
// runtime leaves it to, is not installed or does not work with the kernel.
func checkpoints(ctx context.Context, c *Config) bool {
	path, err := exec.LookPath("criu")
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, criuPatience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, "check").CombinedOutput(); err != nil {
		c.Logger.Warn("criu does not work here: containers cannot be checkpointed", "path", path, "err", err, "output", string(out))
		return false
	}
	return true
}

// checkpointConfig is the file config.dump of a checkpoint's archive, by which
// tools for such archives know what they have.
type checkpointConfig struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Image        string    `json:"rootfsImageName"`
	ImageID      string    `json:"rootfsImage"`
	ImageRef     string    `json:"rootfsImageRef"`
	Runtime      string    `json:"runtime"`
	Created      time.Time `json:"createdTime"`
	Checkpointed time.Time `json:"checkpointedTime"`
}

// checkpoint writes an archive of a running container, which runs on: criu's
// images, the spec, and what the container has changed in its root.
func (r *Runtime) checkpoint(ctx context.Context, c *cri.Container, file string) (err error) {
	e, _, err := r.engineOf(c)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Dir, "checkpoint")
	if err := os.RemoveAll(dir); err != nil { // of one that was cut short
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	images := filepath.Join(dir, "archive", "checkpoint")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	log := filepath.Join(dir, "log")
	args := e.args(log, "checkpoint", "--image-path", images, "--work-path", dir, "--leave-running", "--file-locks", c.ID)
	out, err := allOf(exec.CommandContext(ctx, args[0], args[1:]...)).CombinedOutput()
	// criu freezes the container by its cgroup, and one that was killed leaves it so.
	if thaw := r.thaw(ctx, c); err == nil {
		err = thaw
	}
	if err != nil {
		return fault.Internal.Errorf("%s: %s", filepath.Base(e.path), firstText(logMessage(log), string(out), err.Error()))
	}
	if err := r.describeCheckpoint(ctx, c, e, filepath.Join(dir, "archive")); err != nil {
		return err
	}
	return writeArchive(ctx, file, filepath.Join(dir, "archive"))
}

// outputPatience is how long what a killed program has started may go on to hold
// its output.
const outputPatience = 5 * time.Second

// allOf has the end of the command's context kill it with all that it starts: the
// OCI runtime alone would leave its criu at work.
func allOf(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = outputPatience
	return cmd
}

// thaw lets a container go on that a checkpoint has stopped, also one that ended
// with the server.
func (r *Runtime) thaw(_ context.Context, c *cri.Container) error { return cgroup.Thaw(r.cgroupOf(c)) }

// describeCheckpoint adds what criu does not save.
func (r *Runtime) describeCheckpoint(ctx context.Context, c *cri.Container, e engine, dir string) error {
	doc, err := readWholeSpec(r.bundleOf(c))
	if err != nil {
		return err
	}
	return errors.Join(
		writeJSON(filepath.Join(dir, "spec.dump"), doc),
		writeJSON(filepath.Join(dir, "config.dump"), checkpointConfig{
			ID: c.ID, Name: c.Config.GetMetadata().GetName(), Runtime: filepath.Base(e.path), Created: c.CreatedAt, Checkpointed: time.Now(),
			Image: firstText(c.Config.GetImage().GetUserSpecifiedImage(), c.Config.GetImage().GetImage()), ImageID: c.ImageRef, ImageRef: c.ImageRef,
		}),
		writeArchive(ctx, filepath.Join(dir, "rootfs-diff.tar"), filepath.Join(imageDir(c), "upper")),
	)
}

// writeArchive writes a new tar file of what is below dir.
func writeArchive(ctx context.Context, file, dir string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	if err := errors.Join(changeset.Write(ctx, f, dir), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	return nil
}
