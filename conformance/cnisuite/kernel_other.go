//go:build !linux

package cnisuite

import (
	"syscall"
	"time"

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

func switches(uint32) []string { return nil }

func addForeignRules() error {
	return fault.Unimplemented.Errorf("nftables needs Linux")
}

func promiscuous(netlink.Link) error {
	return fault.Unimplemented.Errorf("network interfaces need Linux")
}

type processes map[int]int

func (*lab) hold(processes) error {
	return fault.Unimplemented.Errorf("ending processes needs Linux")
}

func (processes) end(time.Time) []int { return nil }

func (processes) release() {}
