package spec

import (
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// UserNamespace returns how the sandbox's own user namespace maps users, or nil
// when the sandbox is in the host's. Its root is always mapped, because the files
// of images belong to it.
func UserNamespace(c *runtimeapi.PodSandboxConfig) (*runtimeapi.UserNamespace, error) {
	options := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	u := options.GetUsernsOptions()
	switch {
	case u == nil || u.GetMode() == runtimeapi.NamespaceMode_NODE:
		return nil, nil
	case u.GetMode() != runtimeapi.NamespaceMode_POD:
		return nil, fault.Invalid.Errorf("a user namespace is the Pod's own or the node's, and %s is asked for", u.GetMode())
	case options.GetNetwork() == runtimeapi.NamespaceMode_NODE || options.GetPid() == runtimeapi.NamespaceMode_NODE || options.GetIpc() == runtimeapi.NamespaceMode_NODE:
		return nil, fault.Unimplemented.Errorf("a user namespace does not go together with the host's network, PID or IPC namespace")
	}
	for what, list := range map[string][]*runtimeapi.IDMapping{"user": u.GetUids(), "group": u.GetGids()} {
		if err := checkMappings(list); err != nil {
			return nil, fault.Invalid.Errorf("the %s mappings of the user namespace: %w", what, err)
		}
	}
	return u, nil
}

// maxMappings is what the kernel takes (user_namespaces(7)).
const maxMappings = 340

func checkMappings(list []*runtimeapi.IDMapping) error {
	if len(list) > maxMappings {
		return fault.Invalid.Errorf("there are %d, and the kernel takes %d", len(list), maxMappings)
	}
	var seen []*runtimeapi.IDMapping
	for _, m := range list {
		n := uint64(m.GetLength())
		if n == 0 || uint64(m.GetHostId())+n > math.MaxUint32 || uint64(m.GetContainerId())+n > math.MaxUint32 {
			return fault.Invalid.Errorf("%d ids from %d at %d are no range", n, m.GetHostId(), m.GetContainerId())
		}
		for _, s := range seen {
			if overlap(s.ContainerId, s.Length, m.ContainerId, m.Length) || overlap(s.HostId, s.Length, m.HostId, m.Length) {
				return fault.Invalid.Errorf("the ranges overlap")
			}
		}
		seen = append(seen, m)
	}
	if _, ok := HostID(list, 0); !ok {
		return fault.Invalid.Errorf("0 is not mapped")
	}
	return nil
}

func overlap(a, an, b, bn uint32) bool {
	return uint64(a) < uint64(b)+uint64(bn) && uint64(b) < uint64(a)+uint64(an)
}

// HostID returns the id that the host has for one of the namespace.
func HostID(list []*runtimeapi.IDMapping, id uint32) (host uint32, ok bool) {
	for _, m := range list {
		if id >= m.GetContainerId() && id-m.GetContainerId() < m.GetLength() {
			return m.GetHostId() + id - m.GetContainerId(), true
		}
	}
	return 0, false
}

// sameUserNamespace refuses a container that wants another user namespace than
// its Pod has. One that says nothing gets the Pod's.
func sameUserNamespace(in Input) error {
	theirs, err := UserNamespace(in.Sandbox)
	if err != nil {
		return err
	}
	if (theirs != nil) != (in.Namespaces.User != "") {
		return fault.FailedPrecondition.Errorf("the sandbox has no user namespace like the one that it asks for")
	}
	own := in.security().GetNamespaceOptions().GetUsernsOptions()
	if own == nil || own.GetMode() == runtimeapi.NamespaceMode_NODE && theirs == nil || proto.Equal(own, theirs) {
		return nil
	}
	return fault.Invalid.Errorf("the container asks for another user namespace than its Pod has")
}

// mapUsers says how the namespace that the container joins maps users, and
// refuses a program of a user that is not in it.
func mapUsers(in Input, s *specs.Spec) error {
	u, err := UserNamespace(in.Sandbox)
	if err != nil || u == nil {
		return err
	}
	who := s.Process.User
	if _, ok := HostID(u.GetUids(), who.UID); !ok {
		return fault.Invalid.Errorf("user %d is not mapped in the Pod's user namespace", who.UID)
	}
	for _, g := range append([]uint32{who.GID}, who.AdditionalGids...) {
		if _, ok := HostID(u.GetGids(), g); !ok {
			return fault.Invalid.Errorf("group %d is not mapped in the Pod's user namespace", g)
		}
	}
	s.Linux.UIDMappings, s.Linux.GIDMappings = IDMappings(u.GetUids()), IDMappings(u.GetGids())
	return nil
}

// IDMappings are the mappings as an OCI runtime is given them.
func IDMappings(list []*runtimeapi.IDMapping) (out []specs.LinuxIDMapping) {
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}
