package spec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func process(in Input) (*specs.Process, error) {
	args, err := Args(in)
	if err != nil {
		return nil, err
	}
	u, err := user(in)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	profile, err := appArmor(in)
	if err != nil {
		return nil, err
	}
	oom := OOMScore(in.Container.GetLinux().GetResources(), in.Host)
	return &specs.Process{
		Terminal:        in.Container.GetTty(),
		User:            u,
		Args:            args,
		Env:             env(in),
		Cwd:             firstOf(in.Container.GetWorkingDir(), in.Image.WorkingDir, "/"),
		Capabilities:    caps,
		NoNewPrivileges: in.security().GetNoNewPrivs(),
		ApparmorProfile: profile,
		OOMScoreAdj:     &oom,
	}, nil
}

// OOMScore is the oom_score_adj of a container: what it asks for, as far as the runtime
// may set it.
func OOMScore(r *runtimeapi.LinuxContainerResources, h Host) int {
	return max(int(r.GetOomScoreAdj()), h.MinOOMScoreAdj)
}

// Args are the program and its arguments. The kubelet's command replaces the
// image's entrypoint and its cmd, the kubelet's args replace the image's cmd.
func Args(in Input) ([]string, error) {
	c := in.Container
	args := slices.Clone(c.GetCommand())
	if len(args) == 0 {
		args = slices.Clone(in.Image.Entrypoint)
		if len(c.GetArgs()) == 0 {
			args = append(args, in.Image.Cmd...)
		}
	}
	args = append(args, c.GetArgs()...)
	if len(args) == 0 {
		return nil, fault.Invalid.Errorf("neither the container nor its image names a command")
	}
	return args, nil
}

// env is the image's environment overlaid with the container's. The last value
// of a name counts and keeps the first one's place.
func env(in Input) []string {
	list := []string{defaultPath}
	if in.Container.GetTty() {
		list = append(list, "TERM=xterm")
	}
	if host := in.Sandbox.GetHostname(); host != "" {
		list = append(list, "HOSTNAME="+host)
	}
	list = append(list, in.Image.Env...)
	for _, kv := range in.Container.GetEnvs() {
		list = append(list, kv.Key+"="+string(kv.Value))
	}
	var out []string
	at := map[string]int{}
	for _, e := range list {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// defaultCapabilities are those of a container that asks for nothing, the same
// in every runtime that a kubelet talks to.
func defaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

func capabilities(in Input) (*specs.LinuxCapabilities, error) {
	if in.security().GetPrivileged() {
		all := in.Host.Capabilities
		return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}, nil
	}
	want := in.security().GetCapabilities()
	set := map[string]bool{}
	for _, c := range defaultCapabilities() {
		set[c] = true
	}
	// "ALL" first, so that dropping all and adding one leaves one.
	switch {
	case slices.ContainsFunc(want.GetDropCapabilities(), isAll):
		clear(set)
	case slices.ContainsFunc(want.GetAddCapabilities(), isAll):
		for _, c := range in.Host.Capabilities {
			set[c] = true
		}
	}
	if err := apply(set, in.Host.Capabilities, want.GetAddCapabilities(), true); err != nil {
		return nil, err
	}
	if err := apply(set, in.Host.Capabilities, want.GetDropCapabilities(), false); err != nil {
		return nil, err
	}
	ambient := map[string]bool{}
	if err := apply(ambient, in.Host.Capabilities, want.GetAddAmbientCapabilities(), true); err != nil {
		return nil, err
	}
	for c := range ambient {
		set[c] = true
	}
	all, amb := sorted(set), sorted(ambient)
	return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: amb, Ambient: amb}, nil
}

func apply(set map[string]bool, known, names []string, add bool) error {
	for _, n := range names {
		if isAll(n) {
			continue
		}
		c := strings.ToUpper(n)
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if add && !slices.Contains(known, c) {
			return fault.Invalid.Errorf("this machine has no capability %q to add", n)
		}
		if add {
			set[c] = true
		} else {
			delete(set, c)
		}
	}
	return nil
}

func isAll(name string) bool { return strings.EqualFold(name, "ALL") }

func sorted(set map[string]bool) []string {
	var list []string
	for c := range set {
		list = append(list, c)
	}
	slices.Sort(list)
	return list
}
