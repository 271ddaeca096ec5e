package deviceplugin

import (
	"errors"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/validation"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	maxID = 63 // api.proto, Device.ID
	// maxList is gRPC's default limit for a received message, which the kubelet
	// does not raise: a longer list ends the stream, and with it the resource.
	maxList = 4 << 20
)

// envName is what container runtimes accept: anything without "=" and NUL.
var envName = regexp.MustCompile(`^[^=\x00]+$`)

// ValidResource returns nil if name is valid as the resource name of a device plugin,
// and ErrInvalid with the reason otherwise. The rules are the kubelet's: a qualified
// name with a domain other than kubernetes.io, short enough that the quota
// "requests.<name>" is a qualified name, too.
func ValidResource(name string) error {
	switch {
	case !strings.Contains(name, "/"):
		return fault.Invalid.Errorf("resource %q: want a name with a domain, like \"example.com/gpu\"", name)
	case strings.Contains(name, "kubernetes.io/"):
		return fault.Invalid.Errorf("resource %q: the domain kubernetes.io belongs to Kubernetes", name)
	case strings.HasPrefix(name, "requests."):
		return fault.Invalid.Errorf("resource %q: the prefix \"requests.\" belongs to quotas", name)
	}
	if wrong := validation.IsQualifiedName("requests." + name); len(wrong) > 0 {
		return fault.Invalid.Errorf("resource %q: %s", name, strings.Join(wrong, "; "))
	}
	return nil
}

func (p *Plugin) validate() error {
	err := ValidResource(p.Resource)
	if p.Watch == nil {
		err = errors.Join(err, fault.Invalid.Errorf("resource %q: the plugin has no Watch function", p.Resource))
	}
	return err
}

// listOf validates devices and converts them to a message.
func listOf(devices []Device) (*api.ListAndWatchResponse, error) {
	seen := map[string]bool{}
	out := &api.ListAndWatchResponse{}
	for _, d := range devices {
		if err := validID(d.ID); err != nil {
			return nil, err
		}
		if seen[d.ID] {
			return nil, fault.Invalid.Errorf("device %q is listed twice", d.ID)
		}
		seen[d.ID] = true
		m := &api.Device{ID: d.ID, Health: api.Healthy}
		if d.Unhealthy {
			m.Health = api.Unhealthy
		}
		for _, n := range d.NUMA {
			if n < 0 {
				return nil, fault.Invalid.Errorf("device %q: NUMA node %d: leave it out when it is not known", d.ID, n)
			}
			if m.Topology == nil {
				m.Topology = &api.TopologyInfo{}
			}
			m.Topology.Nodes = append(m.Topology.Nodes, &api.NUMANode{ID: int64(n)})
		}
		out.Devices = append(out.Devices, m)
	}
	if size := proto.Size(out); size > maxList {
		return nil, fault.Invalid.Errorf("the list of %d devices has %d bytes, and the kubelet takes %d: shorten the ids or offer fewer devices", len(devices), size, maxList)
	}
	return out, nil
}

func validID(id string) error {
	switch {
	case id == "":
		return fault.Invalid.Errorf("a device has no id")
	case len(id) > maxID:
		return fault.Invalid.Errorf("device %q: the id has %d characters, and %d are allowed", id, len(id), maxID)
	case strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }):
		return fault.Invalid.Errorf("device %q: the id has a space or a character that cannot be printed", id)
	}
	return nil
}

// responseOf validates the result of Allocate and converts it to a message. It reports
// all problems together.
func responseOf(a *Allocation) (*api.ContainerAllocateResponse, error) {
	if a == nil {
		return &api.ContainerAllocateResponse{}, nil
	}
	out := &api.ContainerAllocateResponse{Envs: a.Envs, Annotations: a.Annotations}
	var wrong problems
	for _, k := range slices.Sorted(maps.Keys(a.Envs)) {
		wrong.check(envName.MatchString(k), "environment variable %q is not a name", k)
	}
	targets := map[string]bool{}
	for _, m := range a.Mounts {
		wrong.path(m.HostPath, targets, m.ContainerPath)
		out.Mounts = append(out.Mounts, &api.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, ReadOnly: m.ReadOnly})
	}
	for _, n := range a.Nodes {
		if n.ContainerPath == "" {
			n.ContainerPath = n.HostPath
		}
		if n.Permissions == "" {
			n.Permissions = "rw"
		}
		wrong.path(n.HostPath, targets, n.ContainerPath)
		wrong.check(strings.Trim(n.Permissions, "rwm") == "", "device node %q: permissions %q, want some of \"rwm\"", n.HostPath, n.Permissions)
		out.Devices = append(out.Devices, &api.DeviceSpec{ContainerPath: n.ContainerPath, HostPath: n.HostPath, Permissions: n.Permissions})
	}
	for _, name := range a.CDI {
		_, _, _, err := parser.ParseQualifiedName(name)
		wrong.check(err == nil, "CDI device %q: %v", name, err)
		out.CdiDevices = append(out.CdiDevices, &api.CDIDevice{Name: name})
	}
	return out, errors.Join(wrong...)
}

// problems collects the errors in one allocation.
type problems []error

func (p *problems) check(ok bool, format string, args ...any) {
	if !ok {
		*p = append(*p, fault.Internal.Errorf(format, args...))
	}
}

func (p *problems) path(host string, targets map[string]bool, container string) {
	p.check(filepath.IsAbs(host), "host path %q is not absolute", host)
	p.check(filepath.IsAbs(container), "container path %q is not absolute", container)
	p.check(!targets[container], "container path %q is used twice", container)
	targets[container] = true
}
