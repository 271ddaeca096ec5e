// Package validate refuses requests of the CRI (cri-api v0.37) that can never
// succeed, and those that it would be dangerous to believe, before the runtime's
// author sees them. Its errors are fault.Invalid and name the field.
package validate

import (
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Sandbox checks what the CRI makes a duty of the client and what
// would be dangerous to believe.
func Sandbox(c *runtimeapi.PodSandboxConfig) error {
	m := c.GetMetadata()
	switch {
	case c == nil:
		return fault.Invalid.Errorf("the request has no sandbox config")
	case m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "":
		return fault.Invalid.Errorf("sandbox metadata: name %q, namespace %q and uid %q must be set", m.GetName(), m.GetNamespace(), m.GetUid())
	case c.GetLogDirectory() != "" && !filepath.IsAbs(c.GetLogDirectory()):
		return fault.Invalid.Errorf("log directory %q: it must be absolute", c.GetLogDirectory())
	}
	for _, p := range c.GetPortMappings() {
		if bad(p.GetContainerPort(), 1) || bad(p.GetHostPort(), 0) {
			return fault.Invalid.Errorf("port mapping %d:%d: a port is out of range", p.GetHostPort(), p.GetContainerPort())
		}
	}
	return nil
}

func bad(port, lowest int32) bool { return port < lowest || port > 65535 }

// Container is Sandbox for a container's config.
func Container(c *runtimeapi.ContainerConfig) error {
	switch {
	case c == nil:
		return fault.Invalid.Errorf("the request has no container config")
	case c.GetMetadata().GetName() == "":
		return fault.Invalid.Errorf("container metadata: the name must be set")
	case c.GetImage().GetImage() == "":
		return fault.Invalid.Errorf("container %q: the image must be set", c.GetMetadata().GetName())
	case c.GetLogPath() != "" && !filepath.IsLocal(c.GetLogPath()):
		return fault.Invalid.Errorf("container %q: log path %q must be relative and stay below the sandbox's log directory", c.GetMetadata().GetName(), c.GetLogPath())
	}
	for _, m := range c.GetMounts() {
		if !filepath.IsAbs(m.GetContainerPath()) {
			return fault.Invalid.Errorf("container %q: mount path %q must be absolute", c.GetMetadata().GetName(), m.GetContainerPath())
		}
	}
	for _, kv := range c.GetEnvs() {
		if kv.GetKey() == "" {
			return fault.Invalid.Errorf("container %q: an environment variable has no name", c.GetMetadata().GetName())
		}
	}
	return nil
}
