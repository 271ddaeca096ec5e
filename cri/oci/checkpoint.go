package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
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
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	// criu freezes the container by its cgroup, and one that was killed leaves it so.
	if thaw := cgroup.Thaw(r.cgroupOf(c)); err == nil {
		err = thaw
	}
	if err != nil {
		return fault.Internal.Errorf("%s: %s", filepath.Base(e.path), firstText(logMessage(log), string(out), err.Error()))
	}
	if err := r.describeCheckpoint(c, e, filepath.Join(dir, "archive")); err != nil {
		return err
	}
	return writeArchive(file, filepath.Join(dir, "archive"))
}

// describeCheckpoint adds what criu does not save.
func (r *Runtime) describeCheckpoint(c *cri.Container, e engine, dir string) error {
	doc, err := readSpec(bundleOf(c))
	if err != nil {
		return err
	}
	return errors.Join(
		writeJSON(filepath.Join(dir, "spec.dump"), doc),
		writeJSON(filepath.Join(dir, "config.dump"), checkpointConfig{
			ID: c.ID, Name: c.Config.GetMetadata().GetName(), Runtime: filepath.Base(e.path), Created: c.CreatedAt, Checkpointed: time.Now(),
			Image: firstText(c.Config.GetImage().GetUserSpecifiedImage(), c.Config.GetImage().GetImage()), ImageID: c.ImageRef, ImageRef: c.ImageRef,
		}),
		writeArchive(filepath.Join(dir, "rootfs-diff.tar"), filepath.Join(imageDir(c), "upper")),
	)
}

// writeArchive writes a new tar file of what is below dir. What an overlay has
// to say that something is gone is said as in the layers of images.
func writeArchive(file, dir string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return archiveEntry(w, path, name, entry)
	})
	if err = errors.Join(err, w.Close(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	return nil
}

func archiveEntry(w *tar.Writer, path, name string, entry fs.DirEntry) error {
	const gone, hides = ".wh.", ".wh..wh..opq"
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(filepath.Dir(name), gone+entry.Name())})
	}
	if info.Mode()&fs.ModeSocket != 0 { // which only its process could use
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if info.IsDir() && opaque(path) {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(name, hides)})
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(w, f, h.Size)
	return err
}

// opaque reports whether a directory of an overlay hides what is below it.
func opaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}
