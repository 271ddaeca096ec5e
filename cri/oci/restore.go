package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/changeset"
	"github.com/nodekit-project/nodekit/cri/oci/checkpoint"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// restoredDir is where criu's images of a container to be restored are, until its start
// is over.
func restoredDir(c *cri.Container) string { return filepath.Join(c.Dir, "restored") }

const (
	// criuAnnotation names a file of further options for criu (runc-restore(8), crun(1)):
	// those that make the processes join the Pod's namespaces.
	criuAnnotation = "org.criu.config"
	// criuFile is that file in the bundle.
	criuFile = "criu.conf"
)

// savedLimits bounds the changes of a container and the contents of a /dev/shm.
var savedLimits = layer.Limits{Bytes: 64 << 30, Entries: 4 << 20}

// restore creates a sandbox as usual, and in it the containers of a checkpoint.
func (r *Runtime) restore(ctx context.Context, s *cri.Sandbox, containers []*cri.Container, dir string, _ map[string]string) (err error) {
	saved, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, saved.Close()) }()
	if err := r.refuseRestore(saved, s, containers); err != nil {
		return err
	}
	if err := r.runSandbox(ctx, s); err != nil {
		return err
	}
	if err := r.fillShm(ctx, saved, s); err != nil {
		return err
	}
	for _, c := range containers {
		name := c.Config.GetMetadata().GetName()
		if err := r.makeContainer(ctx, c, &goesOn{r, saved, saved.Find(name)}); err != nil {
			return fmt.Errorf("container %q: %w", name, err)
		}
	}
	return nil
}

// refuseRestore names what does not match, before anything is created.
func (r *Runtime) refuseRestore(saved *checkpoint.Saved, s *cri.Sandbox, containers []*cri.Container) error {
	e, err := r.engineFor(s)
	if err != nil {
		return err
	}
	if name := filepath.Base(e.path); name != saved.Engine {
		return fault.FailedPrecondition.Errorf("the checkpoint was made with the OCI runtime %q, and the Pod's is %q: "+
			"choose a runtime handler that has the other one", saved.Engine, name)
	}
	if saved.Arch != runtime.GOARCH {
		return fault.FailedPrecondition.Errorf("the checkpoint was made on a machine of architecture %q, and this one is %q", saved.Arch, runtime.GOARCH)
	}
	if err := r.refuseSaved(s); err != nil {
		return err
	}
	if err := sameNamespaces(saved, s); err != nil {
		return err
	}
	return refuseNames(saved, containers)
}

// savedSandbox returns the config of the saved Pod.
func savedSandbox(saved *checkpoint.Saved) (*runtimeapi.PodSandboxConfig, error) {
	var was runtimeapi.PodSandboxConfig
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(saved.Sandbox, &was); err != nil {
		return nil, fault.Invalid.Errorf("the sandbox of the checkpoint: %w", err)
	}
	return &was, nil
}

// sameNamespaces refuses a Pod whose namespace options differ from those of the saved
// one.
func sameNamespaces(saved *checkpoint.Saved, s *cri.Sandbox) error {
	was, err := savedSandbox(saved)
	if err != nil {
		return err
	}
	had := &cri.Sandbox{Config: was}
	if hostNetwork(had) != hostNetwork(s) || hostIPC(had) != hostIPC(s) || !proto.Equal(namespaceOptions(had), namespaceOptions(s)) {
		return fault.Invalid.Errorf("the Pod's namespaces are not those of the checkpoint's (%v, and there %v)", namespaceOptions(s), namespaceOptions(had))
	}
	if saved.Has(checkpoint.Shm) == hostIPC(s) {
		return fault.Invalid.Errorf("the checkpoint is damaged: it has a /dev/shm (%v) as a Pod with its own IPC namespace has", saved.Has(checkpoint.Shm))
	}
	return nil
}

// refuseNames requires exactly the containers of the checkpoint.
func refuseNames(saved *checkpoint.Saved, containers []*cri.Container) error {
	var there []string
	for _, c := range saved.Containers {
		there = append(there, c.Name)
	}
	if len(containers) != len(there) {
		return fault.Invalid.Errorf("the request has %d containers, and the checkpoint %q", len(containers), there)
	}
	for _, c := range containers {
		name := c.Config.GetMetadata().GetName()
		i := saved.Find(name)
		if i < 0 {
			return fault.Invalid.Errorf("container %q is not in the checkpoint, which has %q", name, there)
		}
		if saved.Containers[i].Stdin != c.Config.GetStdin() {
			return fault.Invalid.Errorf("container %q: whether it has a standard input is not what the checkpoint has", name)
		}
		if err := refuseSavedContainer(c); err != nil {
			return err
		}
	}
	return nil
}

// fillShm restores the content of the Pod's /dev/shm: processes may have it mapped.
func (r *Runtime) fillShm(ctx context.Context, saved *checkpoint.Saved, s *cri.Sandbox) error {
	if hostIPC(s) {
		return nil
	}
	return unpackSaved(ctx, saved, checkpoint.Shm, filepath.Join(r.sandboxDir(s.ID), "shm"))
}

func unpackSaved(ctx context.Context, saved *checkpoint.Saved, name, root string) error {
	f, err := saved.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := changeset.Apply(ctx, f, root, savedLimits); err != nil {
		return fmt.Errorf("%s of the checkpoint: %w", name, err)
	}
	return nil
}

// goesOn is the origin of a container that is restored from container n of a checkpoint.
type goesOn struct {
	r     *Runtime
	saved *checkpoint.Saved
	n     int
}

// fill applies the changes that the container had made to the image's root.
func (g *goesOn) fill(ctx context.Context, _ *cri.Container, root *image.Rootfs) error {
	if was := g.saved.Containers[g.n].ImageID; was != root.ImageID {
		return fault.Invalid.Errorf("its image %q is not what the checkpoint has, %q", root.ImageID, was)
	}
	return unpackSaved(ctx, g.saved, checkpoint.Changes(g.n), root.Path)
}

// finish copies criu's images and tells criu how to place the processes in the Pod.
func (g *goesOn) finish(ctx context.Context, c *cri.Container, _ engine, doc *specs.Spec) (map[string][]byte, bool, error) {
	was, err := g.saved.Spec(g.n)
	if err != nil {
		return nil, false, err
	}
	pod, err := savedSandbox(g.saved)
	if err != nil {
		return nil, false, err
	}
	if err := matches(side{was, pod.GetHostname()}, side{doc, c.Sandbox.Config.GetHostname()}); err != nil {
		return nil, false, err
	}
	joins, err := joinOptions(doc)
	if err != nil {
		return nil, false, err
	}
	if err := os.RemoveAll(restoredDir(c)); err != nil {
		return nil, false, err
	}
	if err := g.saved.CopyImages(ctx, g.n, restoredDir(c)); err != nil {
		return nil, false, err
	}
	annotate(doc, criuAnnotation, filepath.Join(g.r.bundleOf(c), criuFile))
	return map[string][]byte{criuFile: []byte(joins)}, true, nil
}

// joinOptions returns criu's options for the namespaces that OCI runtimes leave out: of
// the namespaces given by path, they pass on only the network's, and criu would create
// new IPC and UTS namespaces for each container.
func joinOptions(doc *specs.Spec) (string, error) {
	var b strings.Builder
	for _, n := range doc.Linux.Namespaces {
		name := map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}[n.Type]
		if name == "" || n.Path == "" {
			continue
		}
		if strings.ContainsAny(n.Path, " \t\n#,\"\\") {
			return "", fault.FailedPrecondition.Errorf("criu cannot be told of the path %q, which has spaces or the like: choose another run directory", n.Path)
		}
		fmt.Fprintf(&b, "join-ns %s:%s\n", name, n.Path)
	}
	if b.Len() == 0 {
		return "# nothing to join\n", nil
	}
	return b.String(), nil
}

// restoreOver is called when a container's start is over, and does something only for a
// restored one. criu has set the hostname of the Pod's UTS namespace to that of the saved
// Pod, and its images are no longer needed. What is not done here is done by the next
// server, or when the container is removed.
func (r *Runtime) restoreOver(c *cri.Container) {
	if _, err := os.Stat(restoredDir(c)); err != nil {
		return
	}
	err := r.nameAgain(c.Sandbox)
	if err == nil {
		err = os.RemoveAll(restoredDir(c))
	}
	if err != nil {
		r.cfg.Logger.Warn("settling a container that was restored", "container", c.ID, "err", err)
	}
}

// restoreFailed is restoreOver for a container whose start has failed, or whose outcome
// nobody knows. Its criu may still run, in the container's cgroup, or may have been
// killed: then the Pod's network is blocked, and the temporary mounts of the restore
// remain.
func (r *Runtime) restoreFailed(ctx context.Context, c *cri.Container) {
	if _, err := os.Stat(restoredDir(c)); err != nil {
		return
	}
	err := r.killRest(c)
	if err == nil {
		err = errors.Join(r.unlockNetwork(ctx, c.Sandbox), r.detachRestore(c))
	}
	if err != nil {
		r.cfg.Logger.WarnContext(ctx, "clearing up after a container that could not be restored", "container", c.ID, "err", err)
		return
	}
	r.restoreOver(c)
}

// detachRestore unmounts the temporary mounts of a restore, which remain if its runc or
// criu is killed: the root, in runc's state of the container, and all of the machine's
// cgroups, in the bundle, which is criu's working directory.
func (r *Runtime) detachRestore(c *cri.Container) error {
	e, st, err := r.engineOf(c)
	if err != nil || !st.Restored {
		return err
	}
	return errors.Join(mount.DetachTree(e.stateDir(c.ID)), mount.DetachTree(r.bundleOf(c)))
}

// nameAgain sets the sandbox's UTS namespace back to its own hostname.
func (r *Runtime) nameAgain(s *cri.Sandbox) error {
	uts := filepath.Join(r.sandboxDir(s.ID), "uts")
	if hostNetwork(s) || !pinned(uts) { // it is the host's, or gone
		return nil
	}
	host := s.Config.GetHostname()
	if host == "" { // the hostname of a new namespace
		var err error
		if host, err = os.Hostname(); err != nil {
			return err
		}
	}
	return nspin.OnThrowAwayThread(func() error {
		if err := enter(uts, unix.CLONE_NEWUTS); err != nil {
			return err
		}
		return unix.Sethostname([]byte(host))
	})
}
