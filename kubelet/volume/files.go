package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// file is one file of a configMap, secret, projected or downwardAPI volume.
type file struct {
	data []byte
	mode fs.FileMode
}

// content holds all files of a volume by their relative path.
type content map[string]file

// mountFiles creates a volume from the data of objects. Data from Secrets is never
// written to a disk.
func (m *Manager) mountFiles(ctx context.Context, p *v1.Pod, v *v1.Volume) (pod.Volume, error) {
	plugin, memory, sources, mode := asProjected(v)
	files := content{}
	for i := range sources {
		if err := m.collect(ctx, p, &sources[i], mode, files); err != nil {
			return pod.Volume{}, err
		}
	}
	dir := m.root.volume(p.UID, plugin, v.Name)
	if memory {
		if err := tmpfs(dir, &mount.TmpfsOptions{Mode: 0o755}); err != nil {
			return pod.Volume{}, err
		}
	}
	w := writer{dir: dir, group: fsGroup(p)}
	if err := w.write(files); err != nil {
		return pod.Volume{}, fmt.Errorf("writing %q: %w", dir, err)
	}
	return pod.Volume{HostPath: dir, ReadOnly: true, Relabel: true}, nil
}

// asProjected reduces the four kinds to projected, which includes the others.
func asProjected(v *v1.Volume) (plugin string, memory bool, sources []v1.VolumeProjection, mode *int32) {
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return pluginConfigMap, false, []v1.VolumeProjection{{ConfigMap: &v1.ConfigMapProjection{
			LocalObjectReference: s.LocalObjectReference, Items: s.Items, Optional: s.Optional,
		}}}, s.DefaultMode
	case v.Secret != nil:
		s := v.Secret
		return pluginSecret, true, []v1.VolumeProjection{{Secret: &v1.SecretProjection{
			LocalObjectReference: v1.LocalObjectReference{Name: s.SecretName}, Items: s.Items, Optional: s.Optional,
		}}}, s.DefaultMode
	case v.DownwardAPI != nil:
		s := v.DownwardAPI
		return pluginDownward, false, []v1.VolumeProjection{{DownwardAPI: &v1.DownwardAPIProjection{Items: s.Items}}}, s.DefaultMode
	}
	return pluginProjected, true, v.Projected.Sources, v.Projected.DefaultMode
}

// collect adds the files of one source. At the same path, a later source wins over an
// earlier one, as in Kubernetes.
func (m *Manager) collect(ctx context.Context, p *v1.Pod, s *v1.VolumeProjection, mode *int32, into content) error {
	switch {
	case s.ConfigMap != nil:
		return m.configMap(ctx, p.Namespace, s.ConfigMap, mode, into)
	case s.Secret != nil:
		return m.secret(ctx, p.Namespace, s.Secret, mode, into)
	case s.DownwardAPI != nil:
		return downward(p, s.DownwardAPI.Items, mode, into)
	case s.ServiceAccountToken != nil:
		return refuse("projected source serviceAccountToken is not supported yet; set automountServiceAccountToken: false and remove it")
	}
	return refuse("a projected source is none of configMap, secret and downwardAPI, which are supported")
}

func (m *Manager) configMap(ctx context.Context, namespace string, s *v1.ConfigMapProjection, mode *int32, into content) error {
	var cm v1.ConfigMap
	err := m.objects.Get(ctx, namespace, s.Name, &cm)
	if errors.Is(err, fault.NotFound) {
		if isTrue(s.Optional) {
			return nil
		}
		return wait(nil, "ConfigMap %q in namespace %q: create it, or mark the volume optional", s.Name, namespace)
	}
	if err != nil {
		return fmt.Errorf("reading ConfigMap %q: %w", s.Name, err)
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return pick("ConfigMap "+s.Name, data, s.Items, isTrue(s.Optional), mode, into)
}

func (m *Manager) secret(ctx context.Context, namespace string, s *v1.SecretProjection, mode *int32, into content) error {
	var secret v1.Secret
	err := m.objects.Get(ctx, namespace, s.Name, &secret)
	if errors.Is(err, fault.NotFound) {
		if isTrue(s.Optional) {
			return nil
		}
		return wait(nil, "Secret %q in namespace %q: create it, or mark the volume optional", s.Name, namespace)
	}
	if err != nil {
		return fmt.Errorf("reading Secret %q: %w", s.Name, err)
	}
	return pick("Secret "+s.Name, secretData(&secret), s.Items, isTrue(s.Optional), mode, into)
}

// secretData returns the Secret's values. As in an API server, the write-only
// stringData takes precedence over data.
func secretData(s *v1.Secret) map[string][]byte {
	data := map[string][]byte{}
	for k, v := range s.Data {
		data[k] = v
	}
	for k, v := range s.StringData {
		data[k] = []byte(v)
	}
	return data
}

// pick adds all keys, or only the items if there are any.
func pick(object string, data map[string][]byte, items []v1.KeyToPath, optional bool, mode *int32, into content) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := into.add(k, v, mode, nil); err != nil {
				return err
			}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok && optional {
			continue
		}
		if !ok {
			return wait(nil, "key %q in %s: add it, or mark the volume optional", it.Key, object)
		}
		if err := into.add(it.Path, v, mode, it.Mode); err != nil {
			return err
		}
	}
	return nil
}

// add adds a file at a relative path, which must stay inside the volume and must not
// conflict with the writer's own names.
func (c content) add(name string, data []byte, volume, own *int32) error {
	parts := strings.Split(name, "/")
	if name == "" || name != path.Clean(name) || path.IsAbs(name) || slices.Contains(parts, "..") || strings.HasPrefix(name, "..") {
		return refuse("path %q must be relative, clean and inside the volume, and must not begin with \"..\"", name)
	}
	mode := int32(0o644)
	for _, m := range []*int32{volume, own} {
		if m != nil {
			mode = *m
		}
	}
	c[name] = file{data: data, mode: fs.FileMode(mode) & fs.ModePerm}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }
