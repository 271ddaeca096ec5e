package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func namespaceRules() []rule {
	return []rule{
		must("CRI-NS-001", "shows a container with a PID namespace of its own nothing but itself",
			"NamespaceMode", "For example, a container with a PID namespace of CONTAINER expects to view only the processes in that container.", checkPIDContainer, Isolation),
		must("CRI-NS-002", "shows containers of a Pod that shares its PID namespace each other",
			"NamespaceMode", "For example, a container with a PID namespace of POD expects to view all of the processes in all of the containers in the pod.", checkPIDPod, Isolation, SharedPID),
		must("CRI-NS-003", "shows a container in the node's PID namespace the node's processes",
			"NamespaceMode", "For example, a container with a PID namespace of NODE expects to view all of the processes on the host running the kubelet.", checkPIDNode, Isolation),
		must("CRI-NS-004", "puts a container into the PID namespace of the one that it targets",
			"NamespaceMode", "For example, a container with a PID namespace of TARGET expects to view all of the processes that container target_id can view.", checkPIDTarget, Isolation, TargetPID),
		must("CRI-NS-005", "gives the containers of a Pod one IPC namespace that is not the node's",
			"NamespaceMode", "A POD namespace is common to all containers in a pod.", shares("ipc"), Isolation),
		must("CRI-NS-006", "puts a Pod into the node's IPC namespace",
			"NamespaceMode", "A NODE namespace is the namespace of the Kubernetes node.",
			joins("ipc", func(n *runtimeapi.NamespaceOption) { n.Ipc = runtimeapi.NamespaceMode_NODE }), Isolation),
		must("CRI-NS-007", "gives the containers of a Pod one network namespace that is not the node's",
			"NamespaceMode", "A POD namespace is common to all containers in a pod.", shares("net"), Isolation),
		must("CRI-NS-008", "puts a Pod into the node's network namespace",
			"NamespaceMode", "A NODE namespace is the namespace of the Kubernetes node.",
			joins("net", func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE }), Isolation),
		must("CRI-NS-009", "sets the sysctls of a Pod, and not the node's",
			"LinuxPodSandboxConfig", "Sysctls holds linux sysctls config for the sandbox.", checkSysctls, Isolation),
		must("CRI-NS-010", "shows in a sandbox's status the namespaces that were asked for",
			"NamespaceOption", "Namespace options for Linux namespaces.", checkNamespaceStatus),
		must("CRI-NS-011", "maps the users of a Pod as it is told, if it says that it can",
			"UserNamespace", "Uids specifies the UID mappings for the user namespace.", checkUserNamespace, Isolation),
	}
}

func checkPIDContainer(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if _, err := p.start(ctx, forever); err != nil {
		return err
	}
	seen, err := p.processes(ctx)
	if err == nil && len(seen) != 1 {
		return fmt.Errorf("a container that runs one program sees the processes %v", seen)
	}
	return err
}

// processes returns what another container of the Pod sees in /proc.
func (p *pod) processes(ctx context.Context, edits ...edit) (seen []int, err error) {
	out, err := p.prints(ctx, "ls /proc", edits...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if pid, err := strconv.Atoi(fields[len(fields)-1]); err == nil && strings.HasPrefix(line, "d") {
			seen = append(seen, pid)
		}
	}
	return seen, nil
}

func checkPIDPod(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD }))
	if err != nil {
		return err
	}
	b, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	seen, err := p.processes(ctx)
	if err != nil {
		return err
	}
	if len(seen) < 2 {
		return fmt.Errorf("beside the container %v another one of the Pod sees the processes %v", short(b.id), seen)
	}
	out, err := p.prints(ctx, "ls /proc/self/ns/pid")
	if err != nil {
		return err
	}
	return sameNamespace("pid", out, false)
}

func checkPIDNode(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_NODE }))
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "ls /proc/self/ns/pid")
	if err != nil {
		return err
	}
	return sameNamespace("pid", out, true)
}

func checkPIDTarget(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "do", do("ls /proc/self/ns/pid", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "pid:["); err != nil {
		return err
	}
	theirs, _, err := b.printed()
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "ls /proc/self/ns/pid", secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.NamespaceOptions = &runtimeapi.NamespaceOption{
			Network: c.NamespaceOptions.GetNetwork(), Pid: runtimeapi.NamespaceMode_TARGET, TargetId: b.id,
		}
	}))
	if err != nil {
		return err
	}
	if namespaceIn(out) != namespaceIn(theirs) {
		return fmt.Errorf("the container is in %q, and its target in %q", namespaceIn(out), namespaceIn(theirs))
	}
	return nil
}

// shares returns a check that two containers of a Pod share a namespace other than the
// node's.
func shares(kind string) look {
	return func(ctx context.Context, s *subject) error {
		if !s.network && kind == "net" {
			return noNetwork()
		}
		p, err := s.pod(ctx)
		if err != nil {
			return err
		}
		first, err := p.prints(ctx, "ls /proc/self/ns/"+kind)
		if err != nil {
			return err
		}
		second, err := p.prints(ctx, "ls /proc/self/ns/"+kind)
		if err != nil {
			return err
		}
		if namespaceIn(first) != namespaceIn(second) {
			return fmt.Errorf("two containers of a Pod are in %q and %q", namespaceIn(first), namespaceIn(second))
		}
		return sameNamespace(kind, first, false)
	}
}

func noNetwork() error {
	return conformance.NotApplicable("the runtime says that it has no network for Pods: its NetworkReady is false")
}

// joins returns a check that a Pod is in the node's namespace.
func joins(kind string, ask func(*runtimeapi.NamespaceOption)) look {
	return func(ctx context.Context, s *subject) error {
		p, err := s.pod(ctx, namespaces(ask), func(c *runtimeapi.PodSandboxConfig) {
			if kind == "net" {
				c.Hostname = ""
			}
		})
		if err != nil {
			return err
		}
		out, err := p.prints(ctx, "ls /proc/self/ns/"+kind)
		if err != nil {
			return err
		}
		return sameNamespace(kind, out, true)
	}
}

func namespaceIn(listing string) string {
	return regexp.MustCompile(`[a-z]+:\[[0-9]+\]`).FindString(listing)
}

// sameNamespace compares the namespace in a listing with the node's, which is also the
// suite's.
func sameNamespace(kind, listing string, want bool) error {
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return err
	}
	theirs := namespaceIn(listing)
	switch {
	case theirs == "":
		return fmt.Errorf("the container tells no namespace: %q", listing)
	case want && theirs != ours:
		return fmt.Errorf("the container is in %s, want the node's %s", theirs, ours)
	case !want && theirs == ours:
		return fmt.Errorf("the container is in %s, which is the node's", theirs)
	}
	return nil
}

func checkSysctls(ctx context.Context, s *subject) error {
	const name, value = "kernel.shm_rmid_forced", "1"
	file := "/proc/sys/kernel/shm_rmid_forced"
	before, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{name: value} })
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "cat "+file)
	if err != nil {
		return err
	}
	after, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != value {
		return fmt.Errorf("in the container %s is %q, want %q", name, strings.TrimSpace(out), value)
	}
	if string(before) != string(after) {
		return fmt.Errorf("the node's %s was %q and is %q", name, before, after)
	}
	return nil
}

func checkNamespaceStatus(ctx context.Context, s *subject) error {
	own := func(*runtimeapi.PodSandboxConfig) {}
	nodes := func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "" // as for any Pod on the host's network
		n := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
		n.Network, n.Pid, n.Ipc = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE
	}
	return errors.Join(s.showsNamespaces(ctx, own), s.showsNamespaces(ctx, nodes))
}

// showsNamespaces returns nil when a sandbox's status has the namespaces of its config.
func (s *subject) showsNamespaces(ctx context.Context, ask podEdit) error {
	p, err := s.pod(ctx, ask)
	if err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return err
	}
	got, want := st.GetLinux().GetNamespaces().GetOptions(), p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if got == nil {
		return errors.New("the sandbox's status has no namespace options")
	}
	if got.GetNetwork() != want.GetNetwork() || got.GetPid() != want.GetPid() || got.GetIpc() != want.GetIpc() {
		return fmt.Errorf("the sandbox's status has the namespace options %v, want %v", got, want)
	}
	return nil
}

// hostUsers are the ids that the Pod's users get on the host.
const hostUsers, userCount = 100000, 65536

func checkUserNamespace(ctx context.Context, s *subject) error {
	if !s.handles(func(f *runtimeapi.RuntimeHandlerFeatures) bool { return f.GetUserNamespaces() }) {
		return conformance.NotApplicable("the runtime's status says nothing of user namespaces")
	}
	mapping := []*runtimeapi.IDMapping{{HostId: hostUsers, ContainerId: 0, Length: userCount}}
	p, err := s.pod(ctx, namespaces(func(n *runtimeapi.NamespaceOption) {
		n.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: mapping, Gids: mapping}
	}))
	if err != nil {
		return err
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		out, err := p.prints(ctx, "cat /proc/self/"+file)
		if err != nil {
			return err
		}
		if got, want := strings.Join(strings.Fields(out), " "), fmt.Sprintf("0 %d %d", hostUsers, userCount); got != want {
			return fmt.Errorf("the container's %s is %q, want %q", file, got, want)
		}
	}
	out, err := p.prints(ctx, "ls /data")
	if err == nil && strings.Count(out, " 0:0 ") != strings.Count(out, "\n") {
		return fmt.Errorf("the files of the image, which are root's, are seen in the container as %q", out)
	}
	return err
}

// handles reports whether the default handler has a feature.
func (s *subject) handles(has func(*runtimeapi.RuntimeHandlerFeatures) bool) bool {
	for _, h := range s.status.GetRuntimeHandlers() {
		if h.GetName() == "" {
			return has(h.GetFeatures())
		}
	}
	return false
}
