package device

import (
	"fmt"
	"maps"
	"slices"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// merger merges the answers of a container's plugins. On a conflict the first one wins.
type merger struct {
	pod.Devices
	conflicts []string
}

func (m *merger) add(a *api.ContainerAllocateResponse) {
	m.Envs = m.addMap("environment variable", m.Envs, a.GetEnvs())
	m.Annotations = m.addMap("annotation", m.Annotations, a.GetAnnotations())
	for _, d := range a.GetMounts() {
		one := pod.DeviceMount{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), ReadOnly: d.GetReadOnly()}
		if i := slices.IndexFunc(m.Mounts, func(x pod.DeviceMount) bool { return x.ContainerPath == one.ContainerPath }); i >= 0 {
			m.conflict("mount", one.ContainerPath, m.Mounts[i] != one)
			continue
		}
		m.Mounts = append(m.Mounts, one)
	}
	for _, d := range a.GetDevices() {
		one := pod.DeviceNode{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()}
		if i := slices.IndexFunc(m.Nodes, func(x pod.DeviceNode) bool { return x.ContainerPath == one.ContainerPath }); i >= 0 {
			m.conflict("device node", one.ContainerPath, m.Nodes[i] != one)
			continue
		}
		m.Nodes = append(m.Nodes, one)
	}
	for _, d := range a.GetCdiDevices() {
		if !slices.Contains(m.CDI, d.GetName()) {
			m.CDI = append(m.CDI, d.GetName())
		}
	}
}

func (m *merger) addMap(what string, into, from map[string]string) map[string]string {
	for _, k := range slices.Sorted(maps.Keys(from)) {
		if before, ok := into[k]; ok {
			m.conflict(what, k, before != from[k])
			continue
		}
		if into == nil {
			into = map[string]string{}
		}
		into[k] = from[k]
	}
	return into
}

func (m *merger) conflict(what, name string, differs bool) {
	if differs {
		m.conflicts = append(m.conflicts, fmt.Sprintf("%s %q", what, name))
	}
}
