package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/changeset"
	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// checkpointConfig is the file config.dump of a checkpoint archive, which tells tools for
// such archives what is in it.
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

// checkpointDir is where a checkpoint of a container is prepared and its criu writes its
// log.
func checkpointDir(c *cri.Container) string { return filepath.Join(c.Dir, "checkpoint") }

// checkpoint writes an archive of a running container, which keeps running: criu's
// images, the spec, and what the container has changed in its root file system.
func (r *Runtime) checkpoint(ctx context.Context, c *cri.Container, file string) (err error) {
	e, _, err := r.engineOf(c)
	if err != nil {
		return err
	}
	dir := checkpointDir(c)
	if err := os.RemoveAll(dir); err != nil { // left by an interrupted checkpoint
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	images := filepath.Join(dir, "archive", "checkpoint")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	if err := r.saveImages(ctx, c, images, dir); err != nil { // thaw comes next
		return err
	}
	if err := r.describeCheckpoint(ctx, c, e, filepath.Join(dir, "archive")); err != nil {
		return err
	}
	return newArchive(ctx, file, filepath.Join(dir, "archive"))
}

// thaw resumes a container that a checkpoint has stopped, even if the checkpoint ended
// with the server, and restores its Pod's network.
func (r *Runtime) thaw(ctx context.Context, c *cri.Container) error {
	return errors.Join(r.endSave(ctx, c.Sandbox), cgroup.Thaw(r.cgroupOf(c)))
}

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
		newArchive(ctx, filepath.Join(dir, "rootfs-diff.tar"), filepath.Join(imageDir(c), "upper")),
	)
}

// newArchive is writeArchive to a new file.
func newArchive(ctx context.Context, file, dir string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	return writeArchive(ctx, f, dir)
}

// writeArchive writes a tar archive of the files below dir to f, and closes f.
func writeArchive(ctx context.Context, f *os.File, dir string) error {
	if err := errors.Join(changeset.Write(ctx, f, dir), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	return nil
}
