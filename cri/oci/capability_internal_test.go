package oci

import (
	"encoding/json"
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestCapabilityArgs(t *testing.T) {
	for name, c := range map[string]struct {
		config *runtimeapi.PodSandboxConfig
		want   string
	}{
		"nothing": {&runtimeapi.PodSandboxConfig{}, `{}`},
		"dns and cgroup": {&runtimeapi.PodSandboxConfig{
			DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"a.b"}},
			Linux:     &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/pods/x"},
		}, `{"cgroupPath":"/pods/x","dns":{"servers":["10.0.0.10"],"searches":["a.b"]}}`},
		"bandwidth": {&runtimeapi.PodSandboxConfig{Annotations: map[string]string{
			"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "100G",
		}}, `{"bandwidth":{"ingressRate":10000000,"ingressBurst":10000000,"egressRate":100000000000,"egressBurst":4294967295},` +
			`"io.kubernetes.cri.pod-annotations":{"kubernetes.io/egress-bandwidth":"100G","kubernetes.io/ingress-bandwidth":"10M"}}`},
	} {
		args, err := capabilityArgs(c.config)
		got, jerr := json.Marshal(args)
		if err != nil || jerr != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s (%v, %v)", name, got, c.want, err, jerr)
		}
	}
	for _, bad := range []string{"", "x", "-1M", "10", "2P"} {
		_, err := capabilityArgs(&runtimeapi.PodSandboxConfig{Annotations: map[string]string{"kubernetes.io/egress-bandwidth": bad}})
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("bandwidth %q: %v", bad, err)
		}
	}
}
