package csisuite

import (
	"cmp"
	"errors"
	"strconv"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const defaultSize = 1 << 20

// complete sets what the profile declares, and then the defaults.
func (v *Volume) complete(p *conformance.Profile) error {
	var errs []error
	for fact, into := range map[string]*string{factVolume: &v.ID, factFSType: &v.FSType, factAccessMode: &v.AccessMode} {
		if value, ok := p.Fact(fact); ok {
			*into = value
		}
	}
	if size, ok := p.Fact(factSize); ok {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			errs = append(errs, fault.Invalid.Errorf("profile: %s %q is not a number of bytes", factSize, size))
		}
		v.Size = n
	}
	if list, ok := p.Fact(factParameters); ok {
		v.Parameters = map[string]string{}
		for pair := range strings.SplitSeq(list, ",") {
			name, value, ok := strings.Cut(pair, "=")
			if !ok {
				errs = append(errs, fault.Invalid.Errorf("profile: %s has %q, which is no name=value", factParameters, pair))
			}
			v.Parameters[name] = value
		}
	}
	v.Size, v.AccessMode = cmp.Or(v.Size, defaultSize), cmp.Or(v.AccessMode, "SINGLE_NODE_WRITER")
	if v.mode() == spec.VolumeCapability_AccessMode_UNKNOWN {
		errs = append(errs, fault.Invalid.Errorf("access mode %q is none of the specification's, like SINGLE_NODE_WRITER", v.AccessMode))
	}
	return errors.Join(errs...)
}

func (v *Volume) mode() spec.VolumeCapability_AccessMode_Mode {
	return spec.VolumeCapability_AccessMode_Mode(spec.VolumeCapability_AccessMode_Mode_value[v.AccessMode])
}

// mustWrite returns NotApplicable for volumes that nobody may write to.
func (v *Volume) mustWrite() error {
	switch v.mode() {
	case spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return conformance.NotApplicable("nobody may write to volumes in the access mode %s", v.AccessMode)
	}
	return nil
}

func (v *Volume) access() client.Access { return client.Access{Mode: v.mode(), FSType: v.FSType} }

// want returns the volume of the given name that the suite requests.
func (v *Volume) want(name string) client.Create {
	return client.Create{Name: name, Required: v.Size, Access: []client.Access{v.access()}, Parameters: v.Parameters}
}
