package spec

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// SeccompProfile is the container's seccomp profile: the field, or what the
// deprecated one says, where nothing means unconfined.
func SeccompProfile(sec *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	if p := sec.GetSeccomp(); p != nil {
		return p, known(p, "seccomp")
	}
	old := sec.GetSeccompProfilePath() //nolint:staticcheck // clients of before 2021 send no other
	if old == "" {
		old = "unconfined"
	}
	return parseProfile(old, "seccomp")
}

// AppArmorProfile is the container's AppArmor profile: the field, or what the
// deprecated one says, where nothing means the runtime's default.
func AppArmorProfile(sec *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	if p := sec.GetApparmor(); p != nil {
		return p, known(p, "AppArmor")
	}
	old := sec.GetApparmorProfile() //nolint:staticcheck // as above
	if old == "" {
		old = "runtime/default"
	}
	return parseProfile(old, "AppArmor")
}

func known(p *runtimeapi.SecurityProfile, what string) error {
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined:
		return nil
	case runtimeapi.SecurityProfile_Localhost:
		if p.LocalhostRef == "" {
			return fault.Invalid.Errorf("the %s profile has no name", what)
		}
		return nil
	}
	return fault.Invalid.Errorf("the %s profile has unknown type %d", what, p.ProfileType)
}

func parseProfile(text, what string) (*runtimeapi.SecurityProfile, error) {
	p := &runtimeapi.SecurityProfile{}
	ref, local := strings.CutPrefix(text, "localhost/")
	switch {
	case local:
		p.ProfileType, p.LocalhostRef = runtimeapi.SecurityProfile_Localhost, ref
	case text == "runtime/default" || text == "docker/default":
		p.ProfileType = runtimeapi.SecurityProfile_RuntimeDefault
	case text == "unconfined":
		p.ProfileType = runtimeapi.SecurityProfile_Unconfined
	default:
		return nil, fault.Invalid.Errorf("%s profile %q is none of runtime/default, unconfined and localhost/NAME", what, text)
	}
	return p, known(p, what)
}

func appArmor(in Input) (string, error) {
	p, err := AppArmorProfile(in.security())
	switch {
	case err != nil:
		return "", err
	case in.security().GetPrivileged() || p.ProfileType == runtimeapi.SecurityProfile_Unconfined:
		return "", nil
	case p.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault:
		return in.Host.AppArmorDefault, nil
	case !in.Host.AppArmor:
		return "", fault.FailedPrecondition.Errorf("the machine has no AppArmor, and profile %q is asked for", p.LocalhostRef)
	}
	return p.LocalhostRef, nil
}

func filter(in Input, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := SeccompProfile(in.security())
	switch {
	case err != nil:
		return nil, err
	case in.security().GetPrivileged() || p.ProfileType == runtimeapi.SecurityProfile_Unconfined:
		return nil, nil
	case in.Host.Seccomp == nil && p.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault:
		return nil, nil // the default of a machine without seccomp
	case in.Host.Seccomp == nil:
		return nil, fault.FailedPrecondition.Errorf("the kernel has no seccomp, and profile %q is asked for", p.LocalhostRef)
	case p.ProfileType == runtimeapi.SecurityProfile_Localhost && len(in.Seccomp) == 0:
		return nil, fault.Invalid.Errorf("the seccomp profile %q is empty", p.LocalhostRef)
	}
	profile := in.Seccomp
	if p.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault {
		profile = nil
	}
	f, err := in.Host.Seccomp(profile, s)
	if err != nil {
		return nil, fault.Invalid.Errorf("making the seccomp filter: %w", err)
	}
	return f, nil
}
