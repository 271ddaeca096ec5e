//go:build !linux

package cni

import "github.com/nodekit-project/nodekit/internal/fault"

func (r *Request) openNetNS() error {
	return fault.Unimplemented.Errorf("network namespaces need Linux")
}

func (r *Request) exists() (bool, error) {
	return false, fault.Unimplemented.Errorf("network namespaces need Linux")
}

func (r *Request) netnsID() (string, uint64) { return "", 0 }
func (r *Request) dropForeignNetNS()         {}
func (r *Request) close()                    {}

// NetNSFD needs Linux.
func (r *Request) NetNSFD() int { return -1 }

// InNetNS needs Linux.
func (r *Request) InNetNS(func() error) error {
	return fault.Unimplemented.Errorf("network namespaces need Linux")
}

// Configure needs Linux.
func (r *Request) Configure(*Result) error {
	return fault.Unimplemented.Errorf("network interfaces need Linux")
}

// Verify needs Linux.
func (r *Request) Verify(*Result) error {
	return fault.Unimplemented.Errorf("network interfaces need Linux")
}
