package oci

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// buildSpec gathers what the machine and the image say about a container and
// returns its spec.
func (r *Runtime) buildSpec(ctx context.Context, c *cri.Container, root *image.Rootfs, label string) (*specs.Spec, error) {
	in := spec.Input{
		Sandbox: c.Sandbox.Config, Container: c.Config, Image: root.Config, Rootfs: root.Path,
		Cgroup: specPath(r.cgroupOf(c)), Files: r.sandboxFiles(c.Sandbox), Host: r.host,
	}
	var err error
	if in.Namespaces, err = r.namespacesOf(ctx, c); err != nil {
		return nil, err
	}
	u, err := r.usersIn(c.Sandbox)
	if err != nil {
		return nil, err
	}
	if in.Sources, err = r.prepareMounts(ctx, c, u, label); err != nil {
		return nil, err
	}
	if in.Labels, err = r.labelsOf(c.Sandbox); err != nil {
		return nil, err
	}
	if in.Devices, err = devicesOf(c); err != nil {
		return nil, err
	}
	if in.BlockIO, in.RDTClass, err = r.classesOf(c); err != nil {
		return nil, err
	}
	if in.Users, err = usersOf(root.Path); err != nil {
		return nil, err
	}
	if in.Seccomp, err = readSeccomp(c.Config); err != nil {
		return nil, err
	}
	doc, err := spec.Build(in)
	if err != nil {
		return nil, err
	}
	if err := checkAppArmor(doc.Process.ApparmorProfile); err != nil {
		return nil, err
	}
	if err := resolveMounts(doc); err != nil {
		return nil, err
	}
	if err := addVolumes(doc, root.Config.Volumes, u); err != nil {
		return nil, err
	}
	return doc, r.injectCDI(doc, c.Config)
}

func readSeccomp(c *runtimeapi.ContainerConfig) ([]byte, error) {
	p, err := spec.SeccompProfile(c.GetLinux().GetSecurityContext())
	if err != nil || p.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return nil, err
	}
	content, err := readProfile(p.GetLocalhostRef())
	if err != nil {
		return nil, fault.Invalid.Errorf("reading the seccomp profile: %w", err)
	}
	return content, nil
}

// maxProfile is far more than a profile that names every system call needs.
const maxProfile = 4 << 20

// readProfile reads a seccomp profile, whose path is absolute
// (SecurityProfile.localhost_ref). A symbolic link may lead to anything, such as a named
// pipe.
func readProfile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the path %q must be absolute", path)
	}
	at, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	content, err := readRegular(at, maxProfile)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return content, nil
}

// namespacesOf returns the namespaces that a container joins.
func (r *Runtime) namespacesOf(ctx context.Context, c *cri.Container) (n spec.Namespaces, err error) {
	dir := r.sandboxDir(c.Sandbox.ID)
	if u, err := r.usersIn(c.Sandbox); err != nil {
		return n, err
	} else if u != nil {
		n.User = u.path()
	}
	if !hostNetwork(c.Sandbox) {
		n.Net, n.UTS = filepath.Join(dir, "net"), filepath.Join(dir, "uts")
	}
	if !hostIPC(c.Sandbox) {
		n.IPC = filepath.Join(dir, "ipc")
	}
	switch pidMode(c) {
	case runtimeapi.NamespaceMode_NODE:
		n.HostPID = true
	case runtimeapi.NamespaceMode_POD:
		n.PID = filepath.Join(dir, "pid")
	case runtimeapi.NamespaceMode_TARGET:
		n.PID, err = r.pinTarget(ctx, c, c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetTargetId())
	}
	return n, err
}

// pidMode returns the mode of the container's PID namespace. Options that are not set
// read as POD: then the sandbox's options decide.
func pidMode(c *cri.Container) runtimeapi.NamespaceMode {
	mode := c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	switch {
	case mode != runtimeapi.NamespaceMode_POD || sharesPID(c.Sandbox):
		return mode
	case namespaceOptions(c.Sandbox).GetPid() == runtimeapi.NamespaceMode_NODE:
		return runtimeapi.NamespaceMode_NODE
	}
	return runtimeapi.NamespaceMode_CONTAINER
}

func devicesOf(c *cri.Container) ([]spec.Device, error) {
	list, err := lookupDevices(c.Config.GetDevices())
	if err != nil {
		return nil, err
	}
	privileged := c.Config.GetLinux().GetSecurityContext().GetPrivileged()
	if err := checkDevices(list, privileged); err != nil || !privileged {
		return list, err
	}
	all, err := allDevices()
	all = slices.DeleteFunc(all, func(d spec.Device) bool {
		return slices.ContainsFunc(list, func(asked spec.Device) bool { return asked.Node.Path == d.Node.Path })
	})
	return append(all, list...), err
}

// checkDevices refuses devices that would only fail in the OCI runtime, or would give the
// container another device than the requested one. A device listed twice gets the
// permissions of both entries.
func checkDevices(list []spec.Device, privileged bool) error {
	at, null := map[string]specs.LinuxDevice{}, ""
	for _, d := range list {
		if o, twice := at[d.Node.Path]; twice && (o.Type != d.Node.Type || o.Major != d.Node.Major || o.Minor != d.Node.Minor) {
			return fault.Invalid.Errorf("two different devices are to be at %q in the container", d.Node.Path)
		}
		at[d.Node.Path] = d.Node
		if d.Node.Path == "/dev/null" {
			null += d.Access
		}
	}
	if _, asked := at["/dev/null"]; asked && !privileged && !(strings.Contains(null, "r") && strings.Contains(null, "w")) {
		return fault.Invalid.Errorf("device /dev/null: OCI runtimes open it for reading and writing, and the permissions are %q: leave it out, every container has it", null)
	}
	return nil
}

// resolveMounts resolves symbolic links in the host paths of bind mounts, as the CRI
// requires, and refuses paths that do not exist or cannot propagate mounts as requested.
func resolveMounts(doc *specs.Spec) error {
	for i := range doc.Mounts {
		m := &doc.Mounts[i]
		if m.Type != "bind" {
			continue
		}
		real, err := filepath.EvalSymlinks(m.Source)
		if err == nil {
			m.Source, err = real, canPropagate(real, m.Options)
		}
		if err != nil {
			return fault.Invalid.Errorf("mounting %q at %q: %w", m.Source, m.Destination, err)
		}
	}
	return nil
}

// canPropagate returns an error if mounts made on one side would not be seen on the
// other: mounts on the host propagate only from a source mount that is shared or a slave,
// mounts in the container only to a shared one.
func canPropagate(source string, options []string) error {
	both := slices.Contains(options, "rshared")
	if !both && !slices.Contains(options, "rslave") {
		return nil
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var on mount.Mount
	for _, m := range table { // source is on the deepest one; of several at one point, on the last
		if len(m.Point) >= len(on.Point) && (m.Point == source || m.Point == "/" || strings.HasPrefix(source, m.Point+"/")) {
			on = m
		}
	}
	if on.Shared || on.Slave && !both {
		return nil
	}
	return fault.Invalid.Errorf("it is on the mount at %q, which is not shared with others: mount --make-rshared makes it so", on.Point)
}

// injectCDI injects the CDI devices (Container Device Interface) that the container names
// by field or by annotation.
func (r *Runtime) injectCDI(doc *specs.Spec, c *runtimeapi.ContainerConfig) error {
	var names []string
	for _, d := range c.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	_, annotated, err := cdi.ParseAnnotations(c.GetAnnotations())
	if err != nil {
		return fault.Invalid.Errorf("reading CDI annotations: %w", err)
	}
	for _, n := range annotated {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return r.InjectCDI(doc, names)
}

// InjectCDI adds the named CDI devices to a spec, as the files in Config.CDIDirs
// describe them. A device that they do not describe is refused with fault.Invalid.
func (r *Runtime) InjectCDI(doc *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(r.cfg.CDIDirs...))
	if err != nil {
		return fmt.Errorf("reading CDI specs: %w", err)
	}
	missing, err := cache.InjectDevices(doc, names...)
	if len(missing) > 0 {
		return fault.Invalid.Errorf("injecting CDI devices: no spec in %q describes %q, but %q%s", cache.GetSpecDirectories(), missing, cache.ListDevices(), unreadSpecs(cache))
	}
	if err != nil {
		return fault.Invalid.Errorf("injecting CDI devices: %w", err)
	}
	return nil
}

// unreadSpecs names the CDI spec files that were skipped, with the error in each: a
// device that is not found may be defined in one of them.
func unreadSpecs(cache *cdi.Cache) (text string) {
	wrong := cache.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(wrong)) {
		text += fmt.Sprintf("; %q is not read: %v", path, errors.Join(wrong[path]...))
	}
	return text
}

// stopSignal returns the container's own stop signal, else the image's, else SIGTERM.
func stopSignal(c *runtimeapi.ContainerConfig, image string) (unix.Signal, error) {
	name := image
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name = strings.TrimPrefix(s.String(), "SIGNAL_")
	}
	if name == "" {
		return unix.SIGTERM, nil
	}
	if sig := parseSignal(name); sig != 0 {
		return sig, nil
	}
	return 0, fault.Invalid.Errorf("stop signal %q is unknown", name)
}
