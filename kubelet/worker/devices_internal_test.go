package worker

import (
	"testing"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// TestDevicesOf: a container is never given something without a name.
func TestDevicesOf(t *testing.T) {
	got := devicesOf(map[string]pod.Devices{
		"a": {CDI: []string{"example.com/gpu=0"}, Nodes: []pod.DeviceNode{{ContainerPath: "/dev/gpu0"}}, Envs: map[string]string{"GPU": "0"}},
		"b": {Mounts: []pod.DeviceMount{{ContainerPath: "/lib/gpu"}}, Envs: map[string]string{"Z": "", "A": ""}},
		"c": {},
	})
	const want = "example.com/gpu=0 /dev/gpu0 for a, /lib/gpu $A $Z for b, counted, with nothing to add, for c"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
