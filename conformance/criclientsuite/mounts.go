package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func mountRules() []rule {
	return []rule{
		must("CRIC-MNT-001", "names mounts by absolute paths, of which those on the host are there",
			"Mount.host_path", "If the image field below is nil and the host path doesn't exist, then runtimes should report an error.", checkMounts),
		must("CRIC-MNT-002", "mounts read-only what the Pod does, and nothing else",
			"Mount.readonly", "If set, the mount is read-only.", asksContainer(func(p *v1.Pod) {
				volume(p, "plain")
				volume(p, "shielded").ReadOnly = true
			}, func(r *runtimeapi.CreateContainerRequest) error {
				return errors.Join(want("readonly of the plain mount", mountAt(r, "/plain").GetReadonly(), false),
					want("readonly of the other", mountAt(r, "/shielded").GetReadonly(), true))
			})),
		must("CRIC-MNT-003", "asks for the propagation of the Pod",
			"Mount.propagation", "Requested propagation mode.", asksContainer(propagating, lookPropagation), Propagation),
		must("CRIC-MNT-004", "asks for recursive read-only mounts as the text wants them",
			"Mount.recursive_read_only", "when set to true, readonly must be explicitly set to true, and propagation must be PRIVATE (0).", asksContainer(func(p *v1.Pod) {
				enabled := v1.RecursiveReadOnlyEnabled
				m := volume(p, "shielded")
				m.ReadOnly, m.RecursiveReadOnly = true, &enabled
			}, func(r *runtimeapi.CreateContainerRequest) error {
				m := mountAt(r, "/shielded")
				return errors.Join(want("recursive_read_only", m.GetRecursiveReadOnly(), true), want("readonly", m.GetReadonly(), true),
					want("propagation", m.GetPropagation(), runtimeapi.MountPropagation_PROPAGATION_PRIVATE))
			}), RecursiveReadOnly),
		must("CRIC-MNT-005", "pulls an image that is a volume, and mounts it by what PullImage answered",
			"Mount.image", "The kubelet does an PullImage RPC and evaluates the returned PullImageResponse.image_ref value, which is then set to the ImageSpec.image field.",
			checkImageVolume, ImageVolumes),
		facto("CRIC-MNT-006", "gives a container a hosts file and a file for its termination message",
			"Pod", "/etc/hosts is the kubelet's unless the Pod is on the host's network, and so is the file of terminationMessagePath.", asksContainer(nil, func(r *runtimeapi.CreateContainerRequest) error {
				for _, path := range []string{"/etc/hosts", "/dev/termination-log"} {
					if mountAt(r, path) == nil {
						return fmt.Errorf("nothing is mounted at %s", path)
					}
				}
				return nil
			})),
	}
}

// volume gives the Pod a directory, and its container a mount of it at /NAME.
func volume(p *v1.Pod, name string) *v1.VolumeMount {
	p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	c := &p.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: name, MountPath: "/" + name})
	return &c.VolumeMounts[len(c.VolumeMounts)-1]
}

// mountAt returns the container's mount at a path, or nil if it has none.
func mountAt(r *runtimeapi.CreateContainerRequest, path string) *runtimeapi.Mount {
	for _, m := range r.GetConfig().GetMounts() {
		if m.GetContainerPath() == path {
			return m
		}
	}
	return nil
}

func checkMounts(ctx context.Context, l *lab) error {
	s, err := l.pod(func(p *v1.Pod) { volume(p, "data") })
	if err != nil {
		return err
	}
	req, err := s.container(ctx)
	if err != nil {
		return err
	}
	at := map[string]bool{}
	for _, m := range req.GetConfig().GetMounts() {
		if !filepath.IsAbs(m.GetContainerPath()) || !filepath.IsAbs(m.GetHostPath()) || at[m.GetContainerPath()] {
			return fmt.Errorf("the mount %v: want absolute paths, and no two at one", m)
		}
		at[m.GetContainerPath()] = true
		if _, err := os.Stat(m.GetHostPath()); err != nil {
			return fmt.Errorf("the mount at %q: %w", m.GetContainerPath(), err)
		}
	}
	if !at["/data"] {
		return errors.New("the container's volume is not among its mounts")
	}
	return nil
}

func propagating(p *v1.Pod) {
	yes, from, both := true, v1.MountPropagationHostToContainer, v1.MountPropagationBidirectional
	p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: &yes} // required for Bidirectional
	volume(p, "none")
	volume(p, "from").MountPropagation = &from
	volume(p, "both").MountPropagation = &both
}

func lookPropagation(r *runtimeapi.CreateContainerRequest) error {
	return errors.Join(
		want("propagation of a plain mount", mountAt(r, "/none").GetPropagation(), runtimeapi.MountPropagation_PROPAGATION_PRIVATE),
		want("propagation of HostToContainer", mountAt(r, "/from").GetPropagation(), runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER),
		want("propagation of Bidirectional", mountAt(r, "/both").GetPropagation(), runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL),
	)
}

func checkImageVolume(ctx context.Context, l *lab) error {
	s := l.draft()
	ref := imageOf(s.name, "volume")
	l.rec.claimImage(ref, s.name, "volume")
	s.spec.Spec.Volumes = []v1.Volume{{Name: "image", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: ref, PullPolicy: v1.PullIfNotPresent}}}}
	s.spec.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "image", MountPath: "/image"}}
	if err := s.give(); err != nil {
		return err
	}
	req, err := s.container(ctx)
	if err != nil {
		return err
	}
	if len(s.calls().of("PullImage").named("volume").good()) == 0 {
		return errors.New("the image of the volume was not pulled")
	}
	m := mountAt(req, "/image")
	return errors.Join(want("the image of the mount", m.GetImage().GetImage(), imageID(ref)), want("its host_path", m.GetHostPath(), ""))
}
