package cri

import (
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// validateSandbox checks what the CRI makes a duty of the client and what
// would be dangerous to believe.
func validateSandbox(c *runtimeapi.PodSandboxConfig) error {
	m := c.GetMetadata()
	switch {
	case c == nil:
		return ErrInvalid.Errorf("the request has no sandbox config")
	case m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "":
		return ErrInvalid.Errorf("sandbox metadata: name %q, namespace %q and uid %q must be set", m.GetName(), m.GetNamespace(), m.GetUid())
	case c.GetLogDirectory() != "" && !filepath.IsAbs(c.GetLogDirectory()):
		return ErrInvalid.Errorf("log directory %q: it must be absolute", c.GetLogDirectory())
	}
	for _, p := range c.GetPortMappings() {
		if bad(p.GetContainerPort(), 1) || bad(p.GetHostPort(), 0) {
			return ErrInvalid.Errorf("port mapping %d:%d: a port is out of range", p.GetHostPort(), p.GetContainerPort())
		}
	}
	return nil
}

func bad(port, lowest int32) bool { return port < lowest || port > 65535 }

func validateContainer(c *runtimeapi.ContainerConfig) error {
	switch {
	case c == nil:
		return ErrInvalid.Errorf("the request has no container config")
	case c.GetMetadata().GetName() == "":
		return ErrInvalid.Errorf("container metadata: the name must be set")
	case c.GetImage().GetImage() == "":
		return ErrInvalid.Errorf("container %q: the image must be set", c.GetMetadata().GetName())
	case c.GetLogPath() != "" && !filepath.IsLocal(c.GetLogPath()):
		return ErrInvalid.Errorf("container %q: log path %q must be relative and stay below the sandbox's log directory", c.GetMetadata().GetName(), c.GetLogPath())
	}
	for _, m := range c.GetMounts() {
		if !filepath.IsAbs(m.GetContainerPath()) {
			return ErrInvalid.Errorf("container %q: mount path %q must be absolute", c.GetMetadata().GetName(), m.GetContainerPath())
		}
	}
	for _, kv := range c.GetEnvs() {
		if kv.GetKey() == "" {
			return ErrInvalid.Errorf("container %q: an environment variable has no name", c.GetMetadata().GetName())
		}
	}
	return nil
}

// logPath is where the container logs, "" when nobody asked for a log.
func logPath(s *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	if s.GetLogDirectory() == "" || c.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(s.GetLogDirectory(), c.GetLogPath())
}
