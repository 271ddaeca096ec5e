//go:build !linux

package cnisuite

import (
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	allFamilies = 0
	familyV6    = 10
	anyTable    = 0
	linkScope   = netlink.Scope(253)
	permanent   = 0x80
)

func ownMounts(*syscall.SysProcAttr) {}

func unshape() (bool, error) {
	return false, fault.Unimplemented.Errorf("traffic control needs Linux")
}

func promiscuous(netlink.Link) error {
	return fault.Unimplemented.Errorf("network interfaces need Linux")
}
