package volume

import (
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/internal/meminfo"
)

// downward adds the files of a downwardAPI source.
func downward(p *v1.Pod, items []v1.DownwardAPIVolumeFile, mode *int32, into content) error {
	for _, it := range items {
		var text string
		var err error
		switch {
		case it.FieldRef != nil:
			text, err = field(p, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			text, err = amount(p, it.ResourceFieldRef)
		default:
			err = refuse("downwardAPI file %q has neither fieldRef nor resourceFieldRef", it.Path)
		}
		if err != nil {
			return err
		}
		if err := into.add(it.Path, []byte(text), mode, it.Mode); err != nil {
			return err
		}
	}
	return nil
}

// field returns the value of a field path. A volume supports fewer of them than an
// environment variable.
func field(p *v1.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return table(p.Labels), nil
	case "metadata.annotations":
		return table(p.Annotations), nil
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[key], nil
	}
	return "", refuse("downwardAPI field %q is not one that a volume can show", path)
}

// subscript extracts key from field['key'].
func subscript(path, field string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(path, field+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

// table formats a map as Kubernetes does: sorted, with quoted values.
func table(m map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

// amount returns a container's request or limit in units of the divisor, rounded up.
// For a limit that is not set, it uses the machine's capacity.
func amount(p *v1.Pod, ref *v1.ResourceFieldSelector) (string, error) {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	i := slices.IndexFunc(all, func(c v1.Container) bool { return c.Name == ref.ContainerName })
	if i < 0 {
		return "", refuse("downwardAPI names container %q, which the pod does not have", ref.ContainerName)
	}
	which, name, ok := strings.Cut(ref.Resource, ".")
	var list v1.ResourceList
	switch {
	case which == "limits" && ok:
		list = all[i].Resources.Limits
	case which == "requests" && ok:
		list = all[i].Resources.Requests
	default:
		return "", refuse("downwardAPI resource %q is neither limits.x nor requests.x", ref.Resource)
	}
	q, set := list[v1.ResourceName(name)]
	if !set && which == "limits" {
		var err error
		if q, err = machine(v1.ResourceName(name)); err != nil {
			return "", err
		}
	}
	return divide(q, ref.Divisor, name), nil
}

func divide(q, divisor resource.Quantity, name string) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	a, b := q.Value(), divisor.Value()
	if name == string(v1.ResourceCPU) {
		a, b = q.MilliValue(), divisor.MilliValue()
	}
	n := a / b
	if a%b != 0 {
		n++
	}
	return strconv.FormatInt(n, 10)
}

func machine(name v1.ResourceName) (resource.Quantity, error) {
	switch name {
	case v1.ResourceCPU:
		return *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI), nil
	case v1.ResourceMemory:
		sizes, err := meminfo.Read()
		if err != nil {
			return resource.Quantity{}, err
		}
		return *resource.NewQuantity(int64(sizes["MemTotal"]), resource.BinarySI), nil //nolint:gosec // no machine has that much
	}
	return resource.Quantity{}, nil
}
