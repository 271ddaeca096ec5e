package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func appArmorRules() []rule {
	return []rule{
		must("CRI-SEC-017", "confines a container by the runtime's default AppArmor profile",
			"SecurityProfile", "The container runtime default profile should be used.", onAppArmor(checkAppArmorDefault), Isolation),
		must("CRI-SEC-018", "confines a container by no AppArmor profile when it is asked not to",
			"SecurityProfile", "Disable the feature for the sandbox or the container.", onAppArmor(checkAppArmorOff), Isolation),
		relied("CRI-SEC-019", "refuses a container whose AppArmor profile is not there",
			"Pod security", "A container must not run without the profile that it asks for.", checkNoAppArmorProfile, Isolation),
	}
}

// onAppArmor wraps checks of what the kernel does.
func onAppArmor(check look) look {
	return func(ctx context.Context, s *subject) error {
		const switched = "/sys/module/apparmor/parameters/enabled"
		on, err := os.ReadFile(switched)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if !strings.HasPrefix(string(on), "Y") {
			return conformance.NotApplicable("this machine's kernel has no AppArmor, or it is off: %s is %q", switched, strings.TrimSpace(string(on)))
		}
		return check(ctx, s)
	}
}

func confined(kind runtimeapi.SecurityProfile_ProfileType, ref string) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

// confinement returns the profile of a container's process, "unconfined" for none.
func (s *subject) confinement(ctx context.Context, kind runtimeapi.SecurityProfile_ProfileType) (string, error) {
	out, err := s.prints(ctx, "cat /proc/self/attr/current", confined(kind, ""))
	return strings.TrimSpace(out), err
}

func checkAppArmorDefault(ctx context.Context, s *subject) error {
	profile, err := s.confinement(ctx, runtimeapi.SecurityProfile_RuntimeDefault)
	if err == nil && !strings.HasSuffix(profile, "(enforce)") {
		return fmt.Errorf("with the default profile the container's process is %q, want a profile that is enforced", profile)
	}
	return err
}

func checkAppArmorOff(ctx context.Context, s *subject) error {
	profile, err := s.confinement(ctx, runtimeapi.SecurityProfile_Unconfined)
	if err == nil && profile != "unconfined" {
		return fmt.Errorf("the container's process, which asks for no profile, is %q", profile)
	}
	return err
}

// checkNoAppArmorProfile applies to every machine: without AppArmor, the profile does
// not exist either.
func checkNoAppArmorProfile(ctx context.Context, s *subject) error {
	return s.runsNot(ctx, "whose AppArmor profile is not there", confined(runtimeapi.SecurityProfile_Localhost, s.mark+"-absent"))
}
