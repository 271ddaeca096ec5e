package spec

import (
	"strings"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Labels are SELinux labels, "user:role:type" or "user:role:type:level": that of
// processes, and that of the files which those may use. An empty one is none, as
// both are where SELinux is off.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"`
}

// With returns the labels with what is asked for in the place of theirs. Files have
// the user and the level of the processes that use them, and neither the role nor the
// type of those. fault.Invalid: a part has a character that none can have.
func (l Labels) With(ask *runtimeapi.SELinuxOption) (Labels, error) {
	for what, part := range map[string]string{"user": ask.GetUser(), "role": ask.GetRole(), "type": ask.GetType(), "level": ask.GetLevel()} {
		// A level is two ranges of categories: s0:c0.c3,c7-s1:c0.c9.
		if strings.ContainsFunc(part, func(c rune) bool { return !labelRune(c) && (what != "level" || c != ':' && c != ',') }) {
			return l, fault.Invalid.Errorf("the SELinux %s %q has a character that none can have", what, part)
		}
	}
	return Labels{
		Process: replace(l.Process, ask.GetUser(), ask.GetRole(), ask.GetType(), ask.GetLevel()),
		Mount:   replace(l.Mount, ask.GetUser(), "", "", ask.GetLevel()),
	}, nil
}

func labelRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_.-", c)
}

// replace puts parts that are not empty into a label, whose level is the rest of it.
func replace(label string, parts ...string) string {
	have := strings.SplitN(label, ":", len(parts))
	for i, p := range parts {
		switch {
		case p != "" && i < len(have):
			have[i] = p
		case p != "":
			have = append(have, p)
		}
	}
	return strings.Join(have, ":")
}

// AsksLabel reports whether anything is asked for.
func AsksLabel(ask *runtimeapi.SELinuxOption) bool { return ask != nil && proto.Size(ask) > 0 }

// ContainerLabels are those of a container in a Pod that has the labels pod: the
// Pod's, where the container asks for no others. A privileged one has the domain
// of the runtime (cri-api v0.37 LinuxContainerSecurityContext.privileged: "SELinux
// restrictions are not applied"), and files that the Pod's others may use. One that is
// in the host's PID or IPC namespace has no label at all: a domain of its own could not
// see, or talk to, what it is there for, whatever it asks for; CRI-O does the same.
func ContainerLabels(pod Labels, s *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) (Labels, error) {
	security := c.GetLinux().GetSecurityContext()
	if pod == (Labels{}) {
		return pod, nil
	}
	own, err := pod.With(security.GetSelinuxOptions())
	if err != nil {
		return Labels{}, err
	}
	hostPID := security.GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_NODE
	hostIPC := s.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE
	switch {
	case hostPID || hostIPC:
		return Labels{}, nil
	case security.GetPrivileged():
		own.Process = ""
	}
	return own, nil
}
