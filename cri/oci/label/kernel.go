package label

import (
	"errors"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	golabel "github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// kernel is the policy that the kernel has loaded.
type kernel struct{}

func (kernel) draw() (spec.Labels, error) {
	process, file, err := golabel.InitLabels(nil)
	if err != nil {
		return spec.Labels{}, fmt.Errorf("choosing SELinux labels: %w", err)
	}
	if process == "" {
		return spec.Labels{}, nil
	}
	return spec.Labels{Process: process, Mount: file}, nil
}

// take does not mind a level that is taken: Pods may share one.
func (kernel) take(label string) { _ = selinux.ReserveLabelV2(label) }

func (kernel) free(label string) { selinux.ReleaseLabel(label) }

func (kernel) canonical(label string) (string, error) {
	out, err := selinux.CanonicalizeContext(label)
	if errors.Is(err, unix.EINVAL) {
		return "", fault.Invalid.Errorf("the SELinux label %q is none that this machine's policy allows", label)
	}
	if err != nil {
		return "", fmt.Errorf("asking the kernel for SELinux label %q: %w", label, err)
	}
	return out, nil
}
