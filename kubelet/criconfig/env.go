package criconfig

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// variable is one environment variable. Names are unique: a later variable replaces an
// earlier one of the same name.
type variable struct{ name, value string }

type environment []variable

func (e *environment) set(name, value string) {
	for i := range *e {
		if (*e)[i].name == name {
			(*e)[i].value = value
			return
		}
	}
	*e = append(*e, variable{name, value})
}

// environment returns the container's environment: envFrom, then env, each value with
// its $(VAR) references replaced by the variables before it, then the variables of
// device plugins.
func (b *Builder) environment(ctx context.Context, r *pod.Request) ([]variable, error) {
	var env environment
	for i := range r.Container.EnvFrom {
		if err := b.envFrom(ctx, r.Pod.Namespace, &r.Container.EnvFrom[i], &env); err != nil {
			return nil, err
		}
	}
	for i := range r.Container.Env {
		e := &r.Container.Env[i]
		value := expand(e.Value, env)
		if e.ValueFrom != nil {
			var err error
			var found bool
			if value, found, err = b.valueFrom(ctx, r, e.ValueFrom); err != nil {
				return nil, fmt.Errorf("environment variable %q: %w", e.Name, err)
			} else if !found {
				continue
			}
		}
		env.set(e.Name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Devices.Envs)) {
		env.set(name, r.Devices.Envs[name])
	}
	return env, nil
}

func (b *Builder) envFrom(ctx context.Context, namespace string, from *v1.EnvFromSource, env *environment) error {
	var data map[string]string
	var err error
	switch {
	case from.ConfigMapRef != nil:
		data, err = b.configMap(ctx, namespace, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		data, err = b.secret(ctx, namespace, from.SecretRef.Name, from.SecretRef.Optional)
	}
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if name := from.Prefix + key; !strings.ContainsAny(name, "=\x00") {
			env.set(name, data[key])
		}
	}
	return nil
}

// valueFrom returns the value of a reference. found is false if an optional reference
// refers to nothing.
func (b *Builder) valueFrom(ctx context.Context, r *pod.Request, from *v1.EnvVarSource) (value string, found bool, err error) {
	switch {
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, err := b.configMap(ctx, r.Pod.Namespace, ref.Name, ref.Optional)
		return pick(data, ref.Key, "ConfigMap", ref.Name, ref.Optional, err)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, err := b.secret(ctx, r.Pod.Namespace, ref.Name, ref.Optional)
		return pick(data, ref.Key, "Secret", ref.Name, ref.Optional, err)
	case from.FieldRef != nil:
		value, err = b.field(r, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = b.resourceField(r, from.ResourceFieldRef)
		return value, true, err
	}
	return "", false, fault.Invalid.Errorf("valueFrom names no source that nodekit knows")
}

func pick(data map[string]string, key, kind, name string, optional *bool, err error) (string, bool, error) {
	if err != nil {
		return "", false, err
	}
	value, ok := data[key]
	if !ok && !isTrue(optional) {
		return "", false, fault.NotFound.Errorf("%s %q has no key %q", kind, name, key)
	}
	return value, ok, nil
}

func (b *Builder) configMap(ctx context.Context, namespace, name string, optional *bool) (map[string]string, error) {
	var m v1.ConfigMap
	if err := b.objects.Get(ctx, namespace, name, &m); err != nil {
		return nil, missing(err, optional)
	}
	return m.Data, nil
}

func (b *Builder) secret(ctx context.Context, namespace, name string, optional *bool) (map[string]string, error) {
	var s v1.Secret
	if err := b.objects.Get(ctx, namespace, name, &s); err != nil {
		return nil, missing(err, optional)
	}
	data := make(map[string]string, len(s.Data))
	for k, v := range s.Data {
		data[k] = string(v)
	}
	return data, nil
}

func missing(err error, optional *bool) error {
	if errors.Is(err, fault.NotFound) && isTrue(optional) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }

// expand replaces each $(NAME) that is in env with its value. Others stay as written,
// and $$ becomes $.
func expand(s string, env []variable) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				out.WriteString(s[i:])
				return out.String()
			}
			reference := s[i : i+end+1]
			out.WriteString(lookup(reference, env))
			i += end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

// lookup returns the value for "$(NAME)", or the reference itself.
func lookup(reference string, env []variable) string {
	name := reference[2 : len(reference)-1]
	for _, v := range env {
		if v.name == name {
			return v.value
		}
	}
	return reference
}

func expandAll(list []string, env []variable) []string {
	var out []string
	for _, s := range list {
		out = append(out, expand(s, env))
	}
	return out
}
