package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
)

// createContainer mounts the root file system and writes the bundle.
func (r *Runtime) createContainer(ctx context.Context, c *cri.Container) error {
	return r.makeContainer(ctx, c, begins{r})
}

// origin is where a new container comes from: an image alone, or a checkpoint as well.
type origin interface {
	// fill completes the root file system before anything is read from it.
	fill(ctx context.Context, c *cri.Container, root *image.Rootfs) error
	// finish completes the spec. It returns the further files of the bundle, by name, and
	// whether the start is a restore.
	finish(ctx context.Context, c *cri.Container, e engine, doc *specs.Spec) (files map[string][]byte, restored bool, err error)
}

// begins is the origin of a container that runs its program from the beginning.
type begins struct{ r *Runtime }

func (begins) fill(context.Context, *cri.Container, *image.Rootfs) error { return nil }

func (b begins) finish(_ context.Context, c *cri.Container, e engine, doc *specs.Spec) (map[string][]byte, bool, error) {
	profile, err := b.r.filters.offer(c.ID, e, doc)
	if profile == nil || err != nil {
		return nil, false, err
	}
	return map[string][]byte{profileFile: profile}, false, nil
}

func (r *Runtime) makeContainer(ctx context.Context, c *cri.Container, from origin) error {
	r.cgroups.Keep() // it will be started soon
	r.mu.Lock()
	r.containers[c.ID] = c
	r.mu.Unlock()
	e, err := r.engineFor(c.Sandbox)
	if err != nil {
		return err
	}
	labels, err := r.holdLabels(c)
	if err != nil {
		return err
	}
	root, err := r.mountRoot(ctx, c, from, labels.Mount)
	if err != nil {
		return err
	}
	doc, err := r.buildSpec(ctx, c, root, labels.Mount)
	if err != nil {
		return err
	}
	if err := r.relabel(c, labels.Mount); err != nil {
		return err
	}
	if r.cfg.Adjust != nil {
		if err := r.cfg.Adjust(ctx, c, doc); err != nil {
			return err
		}
		if err := spec.CheckLimits(doc, r.host); err != nil {
			return err
		}
	}
	if err := fitLimits(doc); err != nil {
		return err
	}
	if err := e.heeds(ctx, doc); err != nil {
		return err
	}
	files, restored, err := from.finish(ctx, c, e, doc)
	if err != nil {
		return err
	}
	if err := r.fillBundle(c, doc, files); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	r.noteView(c, doc)
	sig, err := stopSignal(c.Config, root.Config.StopSignal)
	if err != nil {
		return err
	}
	describe(c, doc, sig)
	st := containerState{Version: stateVersion, Engine: e.path, StopSignal: int(sig), Poststop: hooksAfter(doc), Restored: restored}
	if restored {
		st.Version = restoredVersion
	}
	c.State, err = json.Marshal(st)
	return err
}

// mountRoot mounts the root file system where the container's users can reach it.
func (r *Runtime) mountRoot(ctx context.Context, c *cri.Container, from origin, label string) (*image.Rootfs, error) {
	u, err := r.usersIn(c.Sandbox)
	if err != nil {
		return nil, err
	}
	v := u.view(label)
	v.At = filepath.Join(r.sandboxDir(c.Sandbox.ID), "rootfs-"+c.ID)
	root, err := r.cfg.Images.Mount(ctx, c.ImageRef, imageDir(c), v)
	if err != nil {
		return nil, err
	}
	c.ImageRef = root.ImageID
	if err := from.fill(ctx, c, root); err != nil {
		return nil, err
	}
	return root, r.showRoot(c, root, u)
}

// fillBundle writes the bundle.
func (r *Runtime) fillBundle(c *cri.Container, doc *specs.Spec, files map[string][]byte) error {
	if err := os.Mkdir(r.bundleOf(c), 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.bundleOf(c), name), text, 0o600); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(r.bundleOf(c), "config.json"), doc)
}

// describe records the settings that also depend on the image.
func describe(c *cri.Container, doc *specs.Spec, sig unix.Signal) {
	who := doc.Process.User
	c.User = &runtimeapi.LinuxContainerUser{Uid: int64(who.UID), Gid: int64(who.GID)}
	for _, g := range who.AdditionalGids {
		c.User.SupplementalGroups = append(c.User.SupplementalGroups, int64(g))
	}
	c.StopSignal = signalOf(sig)
}

// annotate adds an annotation for the OCI runtime, beside those of NRI plugins.
func annotate(doc *specs.Spec, key, value string) {
	if doc.Annotations == nil {
		doc.Annotations = map[string]string{}
	}
	doc.Annotations[key] = value
}
