package cribench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

const (
	// startTime bounds a runtime's start; stopTime bounds its end with everything that
	// runs.
	startTime = 30 * time.Second
	stopTime  = 20 * time.Second
	// markVariable is in the environment of a runtime and of what it starts
	// beside the containers; its value is the side's directory.
	markVariable = "NODEKIT_BENCH_SIDE"
)

// side is a runtime under measurement.
type side struct {
	*client.Client
	name, handler, endpoint string
	dir                     string // in the environment of its processes; "" for a runtime that was running before
	pid                     int    // of the server
	process                 *supervisor.Process
}

func (s *side) close() error {
	if s.Client != nil {
		s.Client.Close()
	}
	if s.process == nil {
		return nil
	}
	if err := s.process.Stop(stopTime); err != nil {
		return fmt.Errorf("stopping %s: %w\n%s", s.name, err, s.process.Tail())
	}
	return nil
}

// open starts the runtimes.
func (l *lab) open(ctx context.Context) error {
	if l.uses("crun") {
		l.admitCrun()
	}
	for _, engine := range []string{"crun", "runc"} {
		if err := l.openNodekit(ctx, engine); err != nil {
			return err
		}
	}
	if err := l.openContainerd(ctx); err != nil {
		return err
	}
	for _, e := range l.Endpoint {
		name, endpoint, _ := strings.Cut(e, "=")
		name, handler, _ := strings.Cut(name, "@")
		if err := l.dial(ctx, &side{name: name, handler: handler, endpoint: endpoint}); err != nil {
			return err
		}
	}
	return nil
}

// makeRun creates a runtime's directory for what a reboot removes, on a tmpfs: /run is
// one on every distribution, but may not be on this machine.
func makeRun(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	return mount.Tmpfs(dir, &mount.TmpfsOptions{Mode: 0o711})
}

// dial adds the side when its runtime answers.
func (l *lab) dial(ctx context.Context, s *side) (err error) {
	if s.Client, err = client.Dial(s.endpoint, nil); err != nil {
		return err
	}
	l.sides = append(l.sides, s) // and is closed from here on
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if _, err = s.Wait(ctx); err != nil {
			break
		}
		var im *runtimeapi.ImageStatusResponse
		im, err = s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: l.Image}})
		if err == nil && im.GetImage() != nil {
			return nil
		}
		if ctx.Err() != nil || s.process == nil {
			err = errors.Join(err, fmt.Errorf("it has no image %q", l.Image))
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s.process != nil {
		err = fmt.Errorf("%w\nit printed: %s", err, s.process.Tail())
	}
	return fmt.Errorf("waiting for %s: %w", s.name, err)
}

// run starts a runtime as a process of the side.
func (s *side) run(program string, args ...string) (err error) {
	s.process, err = supervisor.Start(supervisor.Command{Path: program, Args: args, Env: append(os.Environ(), markVariable+"="+s.dir)})
	if err == nil {
		s.pid = s.process.PID()
	}
	return err
}

func (l *lab) openNodekit(ctx context.Context, engine string) error {
	name := "nodekit, " + engine
	if !l.wanted(name) {
		return nil
	}
	if _, err := exec.LookPath(engine); err != nil {
		_, err = fmt.Fprintf(l.Out, "%s is not measured: %v\n", name, err)
		return err
	}
	dir := filepath.Join(l.dir, engine)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	archive, err := l.archive("image.tar", l.Image)
	if err != nil {
		return err
	}
	if err := makeRun(filepath.Join(dir, "run")); err != nil {
		return err
	}
	s := &side{name: name, dir: dir, endpoint: "unix://" + filepath.Join(dir, "s.sock")}
	err = s.run(l.Nodekit, "serve", "runtime", "--endpoint", s.endpoint, "--root", filepath.Join(dir, "root"), "--run", filepath.Join(dir, "run"),
		"--oci-runtime", engine, "--image-archive", archive, "--ephemeral")
	if err != nil {
		return err
	}
	return l.dial(ctx, s)
}

// admitCrun mounts the hugetlb controller as a cgroup v1 hierarchy on a hybrid host,
// where crun does not work while it belongs to v2. The mount disappears with the mount
// namespace. If it fails, or the host is not hybrid, nothing is to be done: crun
// reports what it lacks. While mounted, crun works for whatever looks for an OCI
// runtime on this machine, and no longer afterwards: it is for runs that measure only
// crun.
func (l *lab) admitCrun() {
	if !hugetlbOnV2() {
		return
	}
	dir := filepath.Join(l.dir, "hugetlb")
	if os.Mkdir(dir, 0o700) == nil {
		_ = mountHugetlb(dir)
	}
}

// hugetlbOnV2 reports whether the controller belongs to the version 2 of a hybrid host.
func hugetlbOnV2() bool {
	controllers, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
	return err == nil && strings.TrimSpace(string(controllers)) == "hugetlb"
}

func mountHugetlb(dir string) error { return unix.Mount("none", dir, "cgroup", 0, "hugetlb") }

// KeepControllers returns a function that brings the hugetlb controller back to where it
// is now. Call that outside of the namespaces of Run, after it. The kernel keeps a
// hierarchy that nobody has mounted any more if cgroups that were removed from it are not
// freed yet, and gives it up when it is unmounted another time.
func KeepControllers() (restore func() error) {
	if !hugetlbOnV2() {
		return func() error { return nil }
	}
	return func() (err error) {
		dir, err := os.MkdirTemp("", "nkb-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(dir)) }()
		for range 100 {
			if hugetlbOnV2() {
				return nil
			}
			if err := errors.Join(mountHugetlb(dir), unix.Unmount(dir, 0)); err != nil {
				return fmt.Errorf("giving the hugetlb controller back to cgroup v2: %w", err)
			}
			time.Sleep(100 * time.Millisecond) // it returns some time after the unmount, and the next mount would take it away
		}
		return fault.FailedPrecondition.Errorf("the hugetlb controller does not return to cgroup v2: somebody has mounted it (grep hugetlb /proc/*/mountinfo)")
	}
}

// removeMounted removes the directory with what is mounted below it.
func removeMounted(dir string) error {
	return errors.Join(mount.DetachTree(dir), os.RemoveAll(dir))
}

// admit returns a new Pod and does the part of nodekit's kubelet: its log directory and
// its cgroup.
func (l *lab) admit() (*runtimeapi.PodSandboxConfig, error) {
	pod := l.config()
	logs := filepath.Join(pod.GetLogDirectory(), filepath.Dir(l.container(pod).GetLogPath()))
	return pod, errors.Join(topdir.Make(filepath.Dir(pod.GetLogDirectory()), 0o750), os.MkdirAll(logs, 0o755), cgroup.Create(pod.GetLinux().GetCgroupParent()))
}

// dismiss undoes what admit has done.
func dismiss(pods ...*runtimeapi.PodSandboxConfig) error {
	var errs []error
	for _, pod := range pods {
		errs = append(errs, os.RemoveAll(pod.GetLogDirectory()), cgroup.Destroy(pod.GetLinux().GetCgroupParent()))
	}
	return errors.Join(errs...)
}

// crowdOf admits many Pods. Those returned with an error must be dismissed, too.
func (l *lab) crowdOf(size int) (pods []*runtimeapi.PodSandboxConfig, err error) {
	for range size {
		pod, err := l.admit()
		pods = append(pods, pod)
		if err != nil {
			return pods, err
		}
	}
	return pods, nil
}

// config returns a new Pod as a kubelet configures it.
func (l *lab) config() *runtimeapi.PodSandboxConfig {
	l.count++
	name := "bench-" + strconv.Itoa(l.count)
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: filepath.Base(l.dir) + "-" + name},
		Hostname:     name,
		LogDirectory: filepath.Join(l.dir, "logs", name),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"127.0.0.1"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: l.group + "/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(), Seccomp: runtimeDefault(),
			},
		},
	}
}

func namespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
}

func runtimeDefault() *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

// containerMark returns the mark in the environment of the Pod's container, and of no
// other.
func containerMark(pod *runtimeapi.PodSandboxConfig) string { return pod.GetMetadata().GetUid() + "." }

// container returns the container of a Pod.
func (l *lab) container(pod *runtimeapi.PodSandboxConfig) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
		Image:    &runtimeapi.ImageSpec{Image: l.Image},
		Args:     []string{"pause"},
		Envs:     []*runtimeapi.KeyValue{{Key: "MARK", Value: []byte(containerMark(pod))}},
		LogPath:  "main/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 1000},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(), Seccomp: runtimeDefault(),
				MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}
