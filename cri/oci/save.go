package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/checkpoint"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// freeze freezes all processes of a container, including those of execs.
func (r *Runtime) freeze(_ context.Context, c *cri.Container) error {
	return cgroup.Freeze(r.cgroupOf(c))
}

// dump writes a checkpoint of the Pod. All its containers are frozen and remain so: criu
// also freezes, but leaves a cgroup that was frozen as it was.
func (r *Runtime) dump(ctx context.Context, s *cri.Sandbox, containers []*cri.Container, dir string, _ map[string]string) (err error) {
	if err := r.refuseDump(s, containers); err != nil {
		return err
	}
	d, err := checkpoint.Prepare(dir, len(containers))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	p, err := r.describePod(ctx, s)
	if err != nil {
		return err
	}
	for i, c := range containers {
		if err := r.dumpContainer(ctx, c, d, i); err != nil {
			return fmt.Errorf("container %q: %w", c.Config.GetMetadata().GetName(), err)
		}
		p.Containers = append(p.Containers, checkpoint.Container{
			Name: c.Config.GetMetadata().GetName(), ImageID: c.ImageRef, Stdin: c.Config.GetStdin(),
		})
	}
	if !hostIPC(s) {
		if err := archiveIn(ctx, d, checkpoint.Shm, filepath.Join(r.sandboxDir(s.ID), "shm")); err != nil {
			return err
		}
	}
	return d.Seal(p)
}

// refuseDump names what could not be restored, before anything is written.
func (r *Runtime) refuseDump(s *cri.Sandbox, containers []*cri.Container) error {
	if err := r.refuseSaved(s); err != nil {
		return err
	}
	engines := map[string]bool{}
	for _, c := range containers {
		if err := refuseSavedContainer(c); err != nil {
			return err
		}
		e, _, err := r.engineOf(c)
		if err != nil {
			return err
		}
		engines[e.path] = true
	}
	if len(engines) > 1 {
		return fault.FailedPrecondition.Errorf("the containers were begun by different OCI runtimes, and a checkpoint is of one: begin them anew")
	}
	if hostIPC(s) {
		return nil
	}
	return nspin.OnThrowAwayThread(func() error {
		if err := enter(filepath.Join(r.sandboxDir(s.ID), "ipc"), unix.CLONE_NEWIPC); err != nil {
			return err
		}
		return refuseSystemV()
	})
}

// refuseSaved refuses sandboxes that can be neither checkpointed nor restored.
func (r *Runtime) refuseSaved(s *cri.Sandbox) error {
	u, err := r.usersIn(s)
	switch {
	case err != nil:
		return err
	case u != nil:
		return fault.FailedPrecondition.Errorf("the Pod has a user namespace, which criu cannot join: only Pods with hostUsers can be checkpointed")
	case sharesPID(s):
		return fault.FailedPrecondition.Errorf("the Pod's containers share a PID namespace, whose first process is none of theirs: " +
			"only Pods without shareProcessNamespace can be checkpointed")
	}
	return nil
}

// refuseSavedContainer refuses containers that can be neither checkpointed nor restored.
func refuseSavedContainer(c *cri.Container) error {
	name := c.Config.GetMetadata().GetName()
	switch {
	case c.Config.GetTty():
		return fault.FailedPrecondition.Errorf("container %q has a terminal, whose other end is outside of it: only containers without tty can be checkpointed", name)
	case !ownPIDs(c):
		return fault.FailedPrecondition.Errorf("container %q has the process ids of the host or of another container, which may be taken when it is restored: "+
			"only containers with their own can be checkpointed", name)
	}
	return nil
}

// refuseSystemV refuses System V objects in the calling thread's IPC namespace. The
// images of each container include all of them, but the shared namespace can have them
// only once.
func refuseSystemV() error {
	for _, kind := range []string{"shm", "sem", "msg"} {
		text, err := os.ReadFile("/proc/sysvipc/" + kind)
		if errors.Is(err, os.ErrNotExist) { // the kernel does not support them
			continue
		}
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), "\n") - 1; n > 0 { // after a header line
			return fault.FailedPrecondition.Errorf("the Pod has System V IPC objects (%d in /proc/sysvipc/%s), which cannot be restored: "+
				"only Pods that use POSIX shared memory, semaphores and pipes instead can be checkpointed", n, kind)
		}
	}
	return nil
}

// describePod returns the description of the checkpoint, except for its containers.
func (r *Runtime) describePod(ctx context.Context, s *cri.Sandbox) (*checkpoint.Pod, error) {
	e, err := r.engineFor(s)
	if err != nil {
		return nil, err
	}
	config, err := protojson.Marshal(s.Config)
	if err != nil {
		return nil, err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return nil, err
	}
	criu, err := exec.CommandContext(ctx, "criu", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("asking criu for its version: %w", err)
	}
	return &checkpoint.Pod{
		Made: time.Now(), Engine: filepath.Base(e.path), Arch: runtime.GOARCH, Sandbox: config,
		Kernel: unix.ByteSliceToString(host.Release[:]), Criu: strings.Join(strings.Fields(string(criu)), " "),
	}, nil
}

// dumpContainer writes everything about container n.
func (r *Runtime) dumpContainer(ctx context.Context, c *cri.Container, d *checkpoint.Draft, n int) (err error) {
	work := checkpointDir(c)
	if err := errors.Join(os.RemoveAll(work), os.Mkdir(work, 0o700)); err != nil { // an interrupted checkpoint may have left one
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := r.saveImages(ctx, c, d.Images(n), work); err != nil {
		return err
	}
	if frozen, err := cgroup.Frozen(r.cgroupOf(c)); err != nil || !frozen {
		return errors.Join(err, fault.FailedPrecondition.Errorf("criu has let it go on before the others were saved: use criu 3.17 or a later one"))
	}
	doc, err := readWholeSpec(r.bundleOf(c))
	if err != nil {
		return err
	}
	if err := d.PutSpec(n, doc); err != nil {
		return err
	}
	return archiveIn(ctx, d, checkpoint.Changes(n), filepath.Join(imageDir(c), "upper"))
}

// archiveIn is writeArchive to a file of a checkpoint.
func archiveIn(ctx context.Context, d *checkpoint.Draft, name, dir string) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	return writeArchive(ctx, f, dir)
}
