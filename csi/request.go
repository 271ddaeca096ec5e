package csi

import (
	"log/slog"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// AccessMode says how many nodes and writers may use a volume at the same time.
type AccessMode int32

// The access modes of the specification.
const (
	SingleNodeWriter       = AccessMode(spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	SingleNodeReaderOnly   = AccessMode(spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY)
	MultiNodeReaderOnly    = AccessMode(spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	MultiNodeSingleWriter  = AccessMode(spec.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)
	MultiNodeMultiWriter   = AccessMode(spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	SingleNodeSingleWriter = AccessMode(spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER)
	SingleNodeMultiWriter  = AccessMode(spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER)
)

// String returns the specification's name, as in "SINGLE_NODE_WRITER".
func (m AccessMode) String() string { return spec.VolumeCapability_AccessMode_Mode(m).String() }

func (m AccessMode) singleNode() bool {
	return m == SingleNodeWriter || m == SingleNodeReaderOnly || m == SingleNodeSingleWriter || m == SingleNodeMultiWriter
}

// severalTargets reports whether a volume in this mode may be published at
// several targets of one node (CSI v1.13 NodePublishVolume, second table).
func (m AccessMode) severalTargets() bool { return !m.singleNode() || m == SingleNodeMultiWriter }

// ReadOnly reports whether the mode allows no writers.
func (m AccessMode) ReadOnly() bool { return m == SingleNodeReaderOnly || m == MultiNodeReaderOnly }

// Capability is one way in which a volume will be used.
type Capability struct {
	// Block asks for a block device instead of a mounted directory. FSType and
	// MountFlags are then empty.
	Block bool `json:"block,omitempty"`
	// FSType is the requested file system; empty means the driver's choice.
	FSType string `json:"fsType,omitempty"`
	// MountFlags are options for mount(8). They may hold secrets.
	MountFlags []string   `json:"mountFlags,omitempty"`
	Access     AccessMode `json:"access"`
}

// Secrets are credentials that the orchestrator passes on. They print as "[redacted]",
// and slog logs only how many there are.
type Secrets map[string]string

// String hides the values.
func (s Secrets) String() string { return "[redacted]" }

// GoString hides the values from %#v.
func (s Secrets) GoString() string { return s.String() }

// LogValue hides the values from slog.
func (s Secrets) LogValue() slog.Value { return slog.IntValue(len(s)) }

// MarshalJSON hides the values from JSON.
func (s Secrets) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// Volume is an existing volume.
type Volume struct {
	// ID is unique among the driver's volumes, at most 128 bytes. Required.
	ID string
	// Capacity is the size in bytes; 0 means unknown.
	Capacity int64
	// Context is passed unchanged to the node functions with every call. It must not
	// contain secrets or exceed 4 KiB.
	Context map[string]string
}

// CreateRequest asks for a volume.
type CreateRequest struct {
	// Name is the orchestrator's idempotency key: the same name means the same volume.
	// It is not the volume's id.
	Name string
	// Required and Limit bound the size in bytes; 0 means no bound.
	Required, Limit int64
	// Capabilities are all the ways in which the volume must be usable. There is at
	// least one.
	Capabilities []Capability
	Parameters   map[string]string
	Secrets      Secrets
}

// DeleteRequest asks to delete a volume.
type DeleteRequest struct {
	VolumeID string
	Secrets  Secrets
}

// CapacityRequest asks for the capacity available for such volumes. Both fields may be
// empty.
type CapacityRequest struct {
	Capabilities []Capability
	Parameters   map[string]string
}

// StageRequest asks to prepare a volume on this node.
type StageRequest struct {
	VolumeID    string
	StagingPath string // an existing directory
	Capability  Capability
	Context     map[string]string // Volume.Context
	Secrets     Secrets
}

// UnstageRequest asks for the inverse of a StageRequest.
type UnstageRequest struct {
	VolumeID    string
	StagingPath string
}

// PublishRequest asks to make a volume available at a path.
type PublishRequest struct {
	VolumeID string
	// StagingPath is where StageVolume prepared the volume. It is empty for a driver
	// without StageVolume, and for ephemeral volumes.
	StagingPath string
	// TargetPath does not exist yet, or is the result of an earlier identical request.
	TargetPath string
	// ReadOnly asks for a TargetPath through which nobody can write.
	ReadOnly   bool
	Capability Capability
	// Context is Volume.Context, with the keys that the kubelet adds about the Pod.
	Context map[string]string
	Secrets Secrets
}

// Ephemeral reports whether the volume has the lifetime of one Pod. The kubelet
// publishes such a volume without a CreateVolume before and a DeleteVolume after, so
// PublishVolume creates it and UnpublishVolume deletes it.
func (r *PublishRequest) Ephemeral() bool {
	return r.Context["csi.storage.k8s.io/ephemeral"] == "true"
}

// UnpublishRequest asks for the inverse of a PublishRequest.
type UnpublishRequest struct {
	VolumeID   string
	TargetPath string
}

// StatsRequest asks for the usage of a volume.
type StatsRequest struct {
	VolumeID    string
	VolumePath  string // the target or staging path
	StagingPath string
}

// Stats is the usage of a volume. 0 means unknown.
type Stats struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64
}
