//go:build !linux

package cni

import (
	"os/exec"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func bindToParent(*exec.Cmd) {}

func verifyNetNS(string) error {
	return fault.Unimplemented.Errorf("network namespaces need Linux")
}

// InNetNS needs Linux.
func (r *Request) InNetNS(func() error) error {
	return fault.Unimplemented.Errorf("network namespaces need Linux")
}
