package criconfig

import (
	"context"
	"encoding/json"
	"maps"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Container creates what the container needs on the host and returns its configuration.
// Errors are *pod.StartError with the reason CreateContainerConfigError: they are
// retried, because a missing ConfigMap, Secret or subPath may appear.
func (b *Builder) Container(ctx context.Context, r *pod.Request) (*runtimeapi.ContainerConfig, error) {
	env, err := b.environment(ctx, r)
	if err != nil {
		return nil, &pod.StartError{Reason: "CreateContainerConfigError", Err: err}
	}
	security, err := b.security(r)
	if err != nil {
		return nil, &pod.StartError{Reason: "CreateContainerConfigError", Err: err}
	}
	host, err := b.prepare(r, env)
	if err != nil {
		return nil, &pod.StartError{Reason: "CreateContainerConfigError", Err: err}
	}
	return b.container(r, env, security, host), nil
}

// container is the pure part of Container.
func (b *Builder) container(r *pod.Request, env []variable, security *runtimeapi.LinuxContainerSecurityContext, host *hostFiles) *runtimeapi.ContainerConfig {
	c := r.Container
	config := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: r.Start.Attempt},
		Image:      &runtimeapi.ImageSpec{Image: r.ImageID, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, env),
		Args:       expandAll(c.Args, env),
		WorkingDir: c.WorkingDir,
		Labels: b.labels(r.Pod, map[string]string{
			pod.LabelContainerName: c.Name,
		}),
		Annotations: b.annotations(r, host),
		Mounts:      mounts(r, host),
		Devices:     devices(&r.Devices),
		LogPath:     pod.LogPath(c.Name, r.Start.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux:       &runtimeapi.LinuxContainerConfig{Resources: b.resources(r.Pod, c), SecurityContext: security},
	}
	for _, v := range env {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: v.name, Value: []byte(v.value)})
	}
	for _, name := range r.Devices.CDI {
		config.CDIDevices = append(config.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
	return config
}

// stopSignal returns the container's stop signal. The zero value means the image's, and
// is returned unless the container names another.
func stopSignal(c *v1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+string(*c.Lifecycle.StopSignal)])
}

func (b *Builder) annotations(r *pod.Request, host *hostFiles) map[string]string {
	all := maps.Clone(r.Devices.Annotations)
	if all == nil {
		all = map[string]string{}
	}
	all[pod.AnnotationHash] = pod.Hash(r.Container)
	all[pod.AnnotationRestartCount] = strconv.FormatUint(uint64(r.Start.Attempt), 10)
	all[pod.AnnotationTerminationPath] = r.Container.TerminationMessagePath
	all[pod.AnnotationTerminationPolicy] = string(r.Container.TerminationMessagePolicy)
	all[pod.AnnotationTerminationFile] = host.termination
	all[pod.AnnotationDelay] = r.Start.Delay.String()
	if text, err := json.Marshal(r.Container.Resources); err == nil { // quantities always encode
		all[pod.AnnotationResources] = string(text)
	}
	return all
}

func devices(d *pod.Devices) []*runtimeapi.Device {
	var list []*runtimeapi.Device
	for _, n := range d.Nodes {
		list = append(list, &runtimeapi.Device{ContainerPath: n.ContainerPath, HostPath: n.HostPath, Permissions: n.Permissions})
	}
	return list
}

// mounts lists the container's mounts: its volumes in the order of the spec,
// then the kubelet's own files, then those of device plugins.
func mounts(r *pod.Request, host *hostFiles) []*runtimeapi.Mount {
	var list []*runtimeapi.Mount
	user := map[string]bool{}
	for i := range r.Container.VolumeMounts {
		m := &r.Container.VolumeMounts[i]
		user[m.MountPath] = true
		list = append(list, &runtimeapi.Mount{
			ContainerPath: m.MountPath, HostPath: host.volumes[i],
			Readonly:       m.ReadOnly || r.Volumes[m.Name].ReadOnly,
			SelinuxRelabel: r.Volumes[m.Name].Relabel, Propagation: propagation(m.MountPropagation),
		})
	}
	own := []*runtimeapi.Mount{
		{ContainerPath: hostsPath, HostPath: host.hosts, SelinuxRelabel: true},
		{ContainerPath: r.Container.TerminationMessagePath, HostPath: host.termination, SelinuxRelabel: true},
	}
	for _, m := range own {
		if m.ContainerPath != "" && m.HostPath != "" && !user[m.ContainerPath] {
			list = append(list, m)
		}
	}
	for _, m := range r.Devices.Mounts {
		list = append(list, &runtimeapi.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
	}
	return list
}

func propagation(mode *v1.MountPropagationMode) runtimeapi.MountPropagation {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *mode {
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	default:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
}
