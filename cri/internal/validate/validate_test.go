package validate_test

import (
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestSandbox(t *testing.T) {
	good := func() *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "n", Namespace: "ns", Uid: "u"}, LogDirectory: "/logs",
			PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 80}, {ContainerPort: 65535, HostPort: 8080}},
		}
	}
	if err := validate.Sandbox(good()); err != nil {
		t.Error(err)
	}
	for text, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"uid":           func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" },
		"namespace":     func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"log directory": func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" },
		"70000":         func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].HostPort = 70000 },
		"port mapping":  func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].ContainerPort = 0 },
	} {
		c := good()
		change(c)
		if err := validate.Sandbox(c); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := validate.Sandbox(nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("no config: %v", err)
	}
}

func TestContainer(t *testing.T) {
	good := func() *runtimeapi.ContainerConfig {
		return &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "n"}, Image: &runtimeapi.ImageSpec{Image: "i"}, LogPath: "a/b.log",
			Mounts: []*runtimeapi.Mount{{ContainerPath: "/x"}}, Envs: []*runtimeapi.KeyValue{{Key: "k"}},
		}
	}
	if err := validate.Container(good()); err != nil {
		t.Error(err)
	}
	for text, change := range map[string]func(*runtimeapi.ContainerConfig){
		"name":       func(c *runtimeapi.ContainerConfig) { c.Metadata = nil },
		"image":      func(c *runtimeapi.ContainerConfig) { c.Image = nil },
		"log path":   func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/../../x" },
		"mount path": func(c *runtimeapi.ContainerConfig) { c.Mounts[0].ContainerPath = "x" },
		"variable":   func(c *runtimeapi.ContainerConfig) { c.Envs[0].Key = "" },
	} {
		c := good()
		change(c)
		if err := validate.Container(c); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
