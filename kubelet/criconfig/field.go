package criconfig

import (
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// field returns the value of a fieldRef.
func (b *Builder) field(r *pod.Request, path string) (string, error) {
	p := r.Pod
	if key, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[key], nil
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "spec.nodeName":
		return b.node.Name, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(b.node.IPs), nil
	case "status.hostIPs":
		return strings.Join(b.node.IPs, ","), nil
	case "status.podIP":
		return first(b.podIPs(r)), nil
	case "status.podIPs":
		return strings.Join(b.podIPs(r), ","), nil
	}
	return "", fault.Invalid.Errorf("fieldPath %q is not one that a container can use", path)
}

func (b *Builder) podIPs(r *pod.Request) []string {
	if len(r.Sandbox.IPs) == 0 && r.Pod.Spec.HostNetwork {
		return b.node.IPs
	}
	return r.Sandbox.IPs
}

// subscript returns KEY of prefix['KEY'].
func subscript(path, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(path, prefix+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// resourceField returns the value of a resourceFieldRef: the container's limit or
// request divided by the divisor and rounded up. For a limit that is not set, it uses
// the node's capacity.
func (b *Builder) resourceField(r *pod.Request, ref *v1.ResourceFieldSelector) (string, error) {
	c := r.Container
	if ref.ContainerName != "" {
		if c = pod.Find(r.Pod, ref.ContainerName); c == nil {
			return "", fault.NotFound.Errorf("resourceFieldRef: the Pod has no container %q", ref.ContainerName)
		}
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fault.Invalid.Errorf("resourceFieldRef: resource %q is not limits.NAME or requests.NAME", ref.Resource)
	}
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	q, set := list[v1.ResourceName(name)]
	if !set && kind == "limits" {
		switch v1.ResourceName(name) {
		case v1.ResourceCPU:
			q = *resource.NewQuantity(b.node.CPUs, resource.DecimalSI)
		case v1.ResourceMemory:
			q = *resource.NewQuantity(b.node.Memory, resource.BinarySI)
		}
	}
	return divide(q, ref.Divisor), nil
}

// divide works in thousandths, so that a divisor of "1m" gives millicores.
func divide(q, divisor resource.Quantity) string {
	if divisor.Sign() <= 0 {
		divisor = resource.MustParse("1")
	}
	if divisor.MilliValue()%1000 == 0 {
		d := divisor.Value()
		return strconv.FormatInt((q.Value()+d-1)/d, 10)
	}
	d := divisor.MilliValue()
	return strconv.FormatInt((q.MilliValue()+d-1)/d, 10)
}
