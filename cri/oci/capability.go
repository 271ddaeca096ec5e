package oci

import (
	"encoding/json"
	"math"

	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// capabilityArgs returns what the sandbox offers, besides its port mappings, to CNI
// plugins that declare the capability. The names are those of the CNI conventions;
// io.kubernetes.cri.pod-annotations is the name that other runtimes use.
func capabilityArgs(c *runtimeapi.PodSandboxConfig) (map[string]json.RawMessage, error) {
	offer := map[string]any{}
	if d := c.GetDnsConfig(); d != nil {
		offer["dns"] = dnsArgs{d.Servers, d.Searches, d.Options}
	}
	if path := c.GetLinux().GetCgroupParent(); path != "" {
		offer["cgroupPath"] = path
	}
	if len(c.GetAnnotations()) > 0 {
		offer["io.kubernetes.cri.pod-annotations"] = c.GetAnnotations()
	}
	bandwidth, err := bandwidthOf(c.GetAnnotations())
	if err != nil {
		return nil, err
	}
	if bandwidth != (bandwidthArgs{}) {
		offer["bandwidth"] = bandwidth
	}
	args := make(map[string]json.RawMessage, len(offer))
	for name, value := range offer {
		if args[name], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	return args, nil
}

type dnsArgs struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// bandwidthArgs has rates in bits per second and bursts in bits.
type bandwidthArgs struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// bandwidthOf reads the bandwidth annotations of Kubernetes.
func bandwidthOf(annotations map[string]string) (b bandwidthArgs, err error) {
	for name, into := range map[string][2]*uint64{
		"kubernetes.io/ingress-bandwidth": {&b.IngressRate, &b.IngressBurst},
		"kubernetes.io/egress-bandwidth":  {&b.EgressRate, &b.EgressBurst},
	} {
		text, ok := annotations[name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Cmp(resource.MustParse("1k")) < 0 || q.Cmp(resource.MustParse("1P")) > 0 {
			return b, fault.Invalid.Errorf("annotation %s is %q: want a number of bits per second from 1k to 1P", name, text)
		}
		*into[0] = uint64(q.Value())
		*into[1] = burst(*into[0])
	}
	return b, nil
}

// burst returns how much may pass at once at a rate, for plugins that require a number:
// what the rate allows in a second, but at least a full-sized packet, and no more than
// fits into the kernel's field.
func burst(rate uint64) uint64 {
	const packets = 64 << 10 * 8
	return min(max(rate, packets), math.MaxUint32)
}
