package cribench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/wires"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// hand creates by hand what the kernel and the OCI runtime have to create of the Pod
// that the CRI runtimes are asked for, and nothing else: no calls, records, logs or
// address allocation. The cost of the seccomp profile can be avoided if the OCI runtime
// accepts a program instead of it; so there is a hand without one.
type hand struct {
	*floor
	seccomp *runtimeapi.SecurityProfile
	bridge  *wires.Bridge
	run     string // on a tmpfs, as a runtime's
	disk    string
}

// handmade is one such Pod.
type handmade struct {
	config        *runtimeapi.PodSandboxConfig
	id, run, disk string
}

// hands returns a hand without the seccomp profile and one with it. They need their own
// file system for what a reboot removes.
func (l *lab) hands(f *floor) (plain, confined *hand, err error) {
	h := hand{floor: f, run: filepath.Join(f.dir, "run"), disk: filepath.Join(f.dir, "disk")}
	plain, confined = &h, new(h)
	plain.seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	confined.seccomp = runtimeDefault()
	return plain, confined, errors.Join(makeRun(h.run), os.Mkdir(h.disk, 0o700))
}

func (h *hand) one(ctx context.Context) (bench.Sample, error) {
	time.Sleep(rest)
	return h.crowd(ctx, 1)
}

func (h *hand) many(ctx context.Context) (bench.Sample, error) { return h.crowd(ctx, h.lab.Pods) }

// crowd makes Pods and ends them.
func (h *hand) crowd(ctx context.Context, size int) (s bench.Sample, err error) {
	if h.bridge, err = wires.New(); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.bridge.Close()) }()
	configs, err := h.lab.crowdOf(size)
	defer func() { err = errors.Join(err, dismiss(configs...)) }()
	if err != nil {
		return s, err
	}
	pods := make([]handmade, size)
	for i, config := range configs {
		h.count++
		id := fmt.Sprintf("hand%d", h.count)
		pods[i] = handmade{config, id, filepath.Join(h.run, id), filepath.Join(h.disk, id)}
	}
	s, err = bench.Timed(func() error { return each(pods, func(p handmade) error { return h.make(ctx, p) }) })
	if err != nil {
		return s, err
	}
	time.Sleep(rest)
	end, err := bench.Timed(func() error { return each(pods, h.end) })
	s.Steps = append(s.Steps, bench.Step{Name: "end", Took: end.Total})
	err = errors.Join(err, h.bridge.Settle(ctx)) // or the next side's turn would pay for it
	for _, p := range pods {
		err = errors.Join(err, os.RemoveAll(p.run), os.RemoveAll(p.disk), os.RemoveAll(filepath.Join(h.dir, "state", p.id)))
	}
	return s, err
}

// make creates the sandbox and runs the container in it.
func (h *hand) make(ctx context.Context, p handmade) error {
	for _, dir := range []string{p.run, p.disk, p.in("shm"), p.on("upper"), p.on("work"), p.on("root")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", h.root, p.on("upper"), p.on("work"))
	for _, step := range []func() error{
		func() error {
			return unix.Mount("shm", p.in("shm"), "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=65536k")
		},
		func() error {
			return nspin.IPCAndUTS(p.run, unix.CLONE_NEWIPC|unix.CLONE_NEWUTS, func() error { return nil })
		},
		func() error { return netns.Create(p.in("net")) },
		func() error { return h.bridge.Add(p.in("net"), p.id) },
		func() error { return unix.Mount("overlay", p.on("root"), "overlay", 0, layers) },
		func() error {
			return errors.Join(os.WriteFile(p.in("hostname"), []byte(p.id), 0o600), os.WriteFile(p.in("resolv.conf"), nil, 0o600))
		},
		func() error {
			doc, err := h.bundle(p)
			if err != nil {
				return err
			}
			return writeBundle(p.run, doc)
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return h.execute(ctx, p.run, "run", "--detach", "--pid-file", p.in(pidFile), "--bundle", p.run, p.id)
}

// end ends the container and releases everything. It does not wait for the kernel's
// part, above all of the network.
func (h *hand) end(p handmade) error {
	if err := kill(p.in(pidFile)); err != nil {
		return err
	}
	errs := []error{cgroup.Destroy(p.group())}
	for _, at := range []string{p.on("root"), p.in("shm"), p.in("ipc"), p.in("uts"), p.in("net")} {
		errs = append(errs, unix.Unmount(at, unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}

func (p handmade) group() string { return p.config.GetLinux().GetCgroupParent() + "/" + p.id }

func (p handmade) in(name string) string { return filepath.Join(p.run, name) }

func (p handmade) on(name string) string { return filepath.Join(p.disk, name) }

// bundle describes the container as a runtime would.
func (h *hand) bundle(p handmade) (*specs.Spec, error) {
	c := h.lab.container(p.config)
	c.Linux.SecurityContext.Seccomp = h.seccomp
	return spec.Build(spec.Input{
		Sandbox: p.config, Container: c, Image: v1.Config{Entrypoint: []string{"/podtool"}},
		Rootfs: p.on("root"), Cgroup: p.group(),
		Namespaces: spec.Namespaces{Net: p.in("net"), IPC: p.in("ipc"), UTS: p.in("uts")},
		Files:      spec.Files{ResolvConf: p.in("resolv.conf"), Hostname: p.in("hostname"), Shm: p.in("shm")},
		Host: spec.Host{CgroupV2: cgroup.Version() == 2, Seccomp: func(_ []byte, s *specs.Spec) (*specs.LinuxSeccomp, error) {
			return seccomp.GetDefaultProfile(s)
		}},
	})
}
