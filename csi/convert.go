package csi

import (
	"fmt"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Limits of CSI v1.13 "Size Limits".
const (
	maxString = 128
	maxMap    = 4 << 10
)

// checks records the first error in a request, in the order that csi-sanity and common
// sense expect: what is missing before what is malformed.
type checks struct{ err error }

func (c *checks) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fault.Invalid.Errorf(format, args...)
	}
}

// field requires a string of at most max bytes; max 0 means any length.
func (c *checks) field(name, value string, max int) {
	switch {
	case value == "":
		c.fail("%s is missing", name)
	case max > 0 && len(value) > max:
		c.fail("%s has %d bytes, and the limit is %d", name, len(value), max)
	}
}

// path requires an absolute path.
func (c *checks) path(name, value string) {
	c.field(name, value, 0)
	if value != "" && value[0] != '/' {
		c.fail("%s %q is not an absolute path", name, value)
	}
}

func (c *checks) dict(name string, m map[string]string) {
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
	}
	if size > maxMap {
		c.fail("%s has %d bytes, and the limit is %d", name, size, maxMap)
	}
}

func (c *checks) capability(p *spec.VolumeCapability) Capability {
	if p == nil {
		c.fail("volume_capability is missing")
		return Capability{}
	}
	out := Capability{Access: AccessMode(p.GetAccessMode().GetMode())}
	if out.Access == 0 {
		c.fail("volume_capability: access_mode is missing or UNKNOWN")
	}
	switch {
	case p.GetBlock() != nil:
		out.Block = true
	case p.GetMount() == nil:
		c.fail("volume_capability: neither block nor mount is set")
	case p.GetMount().GetVolumeMountGroup() != "":
		c.fail("volume_capability: volume_mount_group was not advertised")
	default:
		out.FSType, out.MountFlags = p.GetMount().GetFsType(), p.GetMount().GetMountFlags()
	}
	return out
}

func (c *checks) capabilities(list []*spec.VolumeCapability) []Capability {
	if len(list) == 0 {
		c.fail("volume_capabilities is missing")
	}
	var out []Capability
	for _, p := range list {
		out = append(out, c.capability(p))
	}
	return out
}

// volumeOut converts the volume that the author returned, and rejects one that would
// break the orchestrator.
func volumeOut(v *Volume) (*spec.Volume, error) {
	switch {
	case v == nil || v.ID == "":
		return nil, fault.Internal.Errorf("the driver returned a volume without id")
	case len(v.ID) > maxString:
		return nil, fault.Internal.Errorf("the driver returned a volume id of %d bytes, and the limit is %d", len(v.ID), maxString)
	case v.Capacity < 0:
		return nil, fault.Internal.Errorf("the driver returned a negative capacity for volume %q", v.ID)
	}
	return &spec.Volume{VolumeId: v.ID, CapacityBytes: v.Capacity, VolumeContext: v.Context}, nil
}

func within(v *Volume, required, limit int64) error {
	if v.Capacity != 0 && (v.Capacity < required || limit > 0 && v.Capacity > limit) {
		return fmt.Errorf("the driver made volume %q of %d bytes, and %d to %d were asked for", v.ID, v.Capacity, required, limit)
	}
	return nil
}
