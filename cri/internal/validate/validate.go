// Package validate refuses requests of the CRI (cri-api v0.37) that can never succeed,
// and those that would be dangerous to trust, before the runtime's author sees them. Its
// errors are fault.Invalid and name the field.
//
// It does not know what a runtime supports: a handler without user namespaces, for
// example, is the server's concern.
package validate

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Sandbox checks what the CRI requires of the client and what would be dangerous to
// trust.
func Sandbox(c *runtimeapi.PodSandboxConfig) error {
	m, sec := c.GetMetadata(), c.GetLinux().GetSecurityContext()
	switch {
	case c == nil:
		return fault.Invalid.Errorf("the request has no sandbox config")
	case m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "":
		return fault.Invalid.Errorf("sandbox metadata: name %q, namespace %q and uid %q must be set", m.GetName(), m.GetNamespace(), m.GetUid())
	case c.GetLogDirectory() != "" && !filepath.IsAbs(c.GetLogDirectory()):
		return fault.Invalid.Errorf("log directory %q: it must be absolute", c.GetLogDirectory())
	case slices.Contains(strings.Split(c.GetLinux().GetCgroupParent(), "/"), ".."):
		return fault.Invalid.Errorf("cgroup parent %q: it is a path from the root of the cgroups, and cannot have ..", c.GetLinux().GetCgroupParent())
	case sec.GetRunAsGroup() != nil && sec.GetRunAsUser() == nil:
		return fault.Invalid.Errorf("sandbox security context: run_as_group without run_as_user")
	}
	if err := plain(c); err != nil {
		return err
	}
	if err := words(c); err != nil {
		return err
	}
	for _, p := range c.GetPortMappings() {
		if bad(p.GetContainerPort(), 1) || bad(p.GetHostPort(), 0) {
			return fault.Invalid.Errorf("port mapping %d:%d: a port is out of range", p.GetHostPort(), p.GetContainerPort())
		}
		if _, err := netip.ParseAddr(p.GetHostIp()); p.GetHostIp() != "" && err != nil {
			return fault.Invalid.Errorf("port mapping %d:%d: host ip: %w", p.GetHostPort(), p.GetContainerPort(), err)
		}
	}
	if err := namespaces(sec.GetNamespaceOptions(), "sandbox"); err != nil {
		return err
	}
	if err := Resources("sandbox overhead", c.GetLinux().GetOverhead()); err != nil {
		return err
	}
	return Resources("sandbox resources", c.GetLinux().GetResources())
}

// words refuses what would be more than one word in /etc/resolv.conf or /etc/hostname: a
// second line would add settings that were never requested. An option may contain several
// words: the API allows any text as its value.
func words(c *runtimeapi.PodSandboxConfig) error {
	const option = "dns option"
	dns := c.GetDnsConfig()
	for what, texts := range map[string][]string{
		"hostname": {c.GetHostname()}, "dns server": dns.GetServers(), "dns search domain": dns.GetSearches(), option: dns.GetOptions(),
	} {
		for _, text := range texts {
			if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) && what != option }) {
				return fault.Invalid.Errorf("%s %q: it must have no white space and no control characters", what, text)
			}
		}
	}
	return nil
}

func bad(port, lowest int32) bool { return port < lowest || port > 65535 }

// Container is Sandbox for a container's config.
func Container(c *runtimeapi.ContainerConfig) error {
	if c == nil {
		return fault.Invalid.Errorf("the request has no container config")
	}
	if err := container(c); err != nil {
		return fault.Invalid.Errorf("container %q: %w", c.GetMetadata().GetName(), err)
	}
	return nil
}

func container(c *runtimeapi.ContainerConfig) error {
	sec := c.GetLinux().GetSecurityContext()
	switch {
	case c.GetMetadata().GetName() == "":
		return fmt.Errorf("the name in the metadata must be set")
	case c.GetImage().GetImage() == "":
		return fmt.Errorf("the image must be set")
	case !logPath(c.GetLogPath()):
		return fmt.Errorf("log path %q: it must name a file below the sandbox's log directory", c.GetLogPath())
	case c.GetWorkingDir() != "" && !filepath.IsAbs(c.GetWorkingDir()):
		return fmt.Errorf("working directory %q: it must be absolute", c.GetWorkingDir())
	case sec.GetRunAsGroup() != nil && sec.GetRunAsUser() == nil && sec.GetRunAsUsername() == "":
		return fmt.Errorf("run_as_group without run_as_user or run_as_username")
	case sec.GetRunAsUser() != nil && sec.GetRunAsUsername() != "":
		return fmt.Errorf("both run_as_user and run_as_username")
	}
	if err := plain(c); err != nil {
		return err
	}
	if err := nameable(c); err != nil {
		return err
	}
	for _, m := range c.GetMounts() {
		if err := mount(m); err != nil {
			return fmt.Errorf("mount %q: %w", m.GetContainerPath(), err)
		}
	}
	for _, d := range c.GetDevices() {
		if err := device(d); err != nil {
			return fmt.Errorf("device %q: %w", d.GetHostPath(), err)
		}
	}
	for _, kv := range c.GetEnvs() {
		if kv.GetKey() == "" || strings.Contains(kv.GetKey(), "=") || strings.Contains(string(kv.GetValue()), "\x00") {
			return fmt.Errorf("environment variable %q: it has no name, = in its name, or a NUL byte", kv.GetKey())
		}
	}
	if err := namespaces(sec.GetNamespaceOptions(), "container"); err != nil {
		return err
	}
	return Resources("resources", c.GetLinux().GetResources())
}

// Command checks a command to be executed in a container.
func Command(cmd []string) error {
	if len(cmd) == 0 {
		return fault.Invalid.Errorf("the request has no command")
	}
	for i, arg := range cmd {
		if strings.Contains(arg, "\x00") {
			return fault.Invalid.Errorf("cmd[%d]: it has a NUL byte", i)
		}
	}
	return nil
}

// logPath accepts only paths that, joined to a directory, are inside of it and not the
// directory itself. An empty one requests no log.
func logPath(p string) bool {
	return p == "" || filepath.IsLocal(p) && filepath.Clean(p) != "." && !strings.HasSuffix(p, "/")
}

// nameable refuses paths in the container that are too long for Linux (limits.h).
func nameable(c *runtimeapi.ContainerConfig) error {
	const nameMax, pathMax = 255, 4095 // bytes
	sec := c.GetLinux().GetSecurityContext()
	paths := slices.Concat([]string{c.GetWorkingDir()}, sec.GetMaskedPaths(), sec.GetReadonlyPaths())
	for _, m := range c.GetMounts() {
		paths = append(paths, m.GetContainerPath())
	}
	for _, d := range c.GetDevices() {
		paths = append(paths, d.GetContainerPath())
	}
	for _, p := range paths {
		if len(p) > pathMax {
			return fmt.Errorf("path %.40q...: it has %d bytes, and a path has %d at most", p, len(p), pathMax)
		}
		for name := range strings.SplitSeq(p, "/") {
			if len(name) > nameMax {
				return fmt.Errorf("path %.300q: a name in it has %d bytes, and a file's has %d at most", p, len(name), nameMax)
			}
		}
	}
	return nil
}

func mount(m *runtimeapi.Mount) error {
	image := m.GetImage().GetImage() != ""
	switch {
	case !filepath.IsAbs(m.GetContainerPath()):
		return fmt.Errorf("the container path must be absolute")
	case image && m.GetHostPath() != "":
		return fmt.Errorf("host path and image exclude each other")
	case !image && m.GetHostPath() != "" && !filepath.IsAbs(m.GetHostPath()):
		return fmt.Errorf("host path %q must be absolute", m.GetHostPath())
	case m.GetImageSubPath() != "" && (!image || !filepath.IsLocal(m.GetImageSubPath())):
		return fmt.Errorf("image sub path %q: it must stay in the image of the mount", m.GetImageSubPath())
	case image && !m.GetReadonly():
		// "All image mounts are per feature definition readonly" (Mount.image): a request
		// without readonly asks for a mount that does not exist. critest and containerd
		// read it so.
		return fmt.Errorf("image %q can only be mounted read-only, and readonly is not set", m.GetImage().GetImage())
	case m.GetRecursiveReadOnly() && (!m.GetReadonly() || m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE):
		return fmt.Errorf("a recursive read-only mount must be read-only and private")
	}
	return nil
}

// device accepts a device without a container path, as device plugins may give it to the
// kubelet: it then has the host path.
func device(d *runtimeapi.Device) error {
	switch {
	case !filepath.IsAbs(d.GetHostPath()):
		return fmt.Errorf("the host path must be absolute")
	case d.GetContainerPath() != "" && !filepath.IsAbs(d.GetContainerPath()):
		return fmt.Errorf("the container path %q must be absolute", d.GetContainerPath())
	case d.GetPermissions() == "" || strings.Trim(d.GetPermissions(), "rwm") != "":
		return fmt.Errorf("the permissions %q are not one or more of r, w and m", d.GetPermissions())
	}
	return nil
}

// namespaces requires a target if, and only if, a mode refers to it.
func namespaces(o *runtimeapi.NamespaceOption, of string) error {
	const target = runtimeapi.NamespaceMode_TARGET
	aims := o.GetPid() == target || o.GetIpc() == target || o.GetNetwork() == target
	switch {
	case aims && of == "sandbox":
		return fault.Invalid.Errorf("sandbox namespaces: only a container's can be those of a target")
	case aims && o.GetTargetId() == "":
		return fault.Invalid.Errorf("%s namespaces: the mode TARGET without a target", of)
	}
	if m := o.GetUsernsOptions().GetMode(); m != runtimeapi.NamespaceMode_POD && m != runtimeapi.NamespaceMode_NODE {
		return fault.Invalid.Errorf("%s namespaces: a user namespace has the mode POD or NODE, not %v", of, m)
	}
	return nil
}

// Resources refuses limits that no kernel accepts. -1 means no limit where a cgroup
// supports that.
func Resources(what string, r *runtimeapi.LinuxContainerResources) error {
	if r == nil {
		return nil
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"cpu_quota", r.GetCpuQuota()},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes()},
		{"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes()},
	} {
		if f.value < -1 {
			return fault.Invalid.Errorf("%s: %s %d: it must not be negative, but for -1, which is no limit", what, f.name, f.value)
		}
	}
	switch {
	case r.GetCpuPeriod() < 0:
		return fault.Invalid.Errorf("%s: cpu_period %d: it must not be negative", what, r.GetCpuPeriod())
	case r.GetCpuShares() < 0:
		return fault.Invalid.Errorf("%s: cpu_shares %d: it must not be negative", what, r.GetCpuShares())
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return fault.Invalid.Errorf("%s: oom_score_adj %d: it is between -1000 and 1000", what, r.GetOomScoreAdj())
	}
	return plain(r)
}

// PodCIDR parses the ranges of a node, one or several separated by commas.
func PodCIDR(s string) ([]netip.Prefix, error) {
	if s == "" {
		return nil, nil
	}
	var ranges []netip.Prefix
	for one := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(one)
		if err != nil {
			return nil, fault.Invalid.Errorf("pod cidr %q: %w", s, err)
		}
		ranges = append(ranges, p)
	}
	return ranges, nil
}
