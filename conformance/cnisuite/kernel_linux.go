package cnisuite

import (
	"errors"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What only Linux has, so that the suite can be built where its user writes code.
const (
	allFamilies = netlink.FAMILY_ALL
	familyV6    = netlink.FAMILY_V6
	anyTable    = unix.RT_TABLE_UNSPEC
	linkScope   = netlink.SCOPE_LINK
	permanent   = unix.IFA_F_PERMANENT
)

// ownMounts gives a process a mount namespace of its own.
func ownMounts(attr *syscall.SysProcAttr) { attr.Unshareflags = syscall.CLONE_NEWNS }

// unshape deletes the queueing disciplines that no interface has by itself.
func unshape() (found bool, err error) {
	plain := []string{"noqueue", "noop", "pfifo_fast", "pfifo", "fq_codel", "fq", "mq"}
	all, err := netlink.QdiscList(nil)
	for _, q := range all {
		if slices.Contains(plain, q.Type()) || q.Attrs().Parent != netlink.HANDLE_ROOT && q.Attrs().Parent != netlink.HANDLE_INGRESS {
			continue
		}
		found = true
		err = errors.Join(err, netlink.QdiscDel(q))
	}
	return found, err
}

func promiscuous(link netlink.Link) error { return netlink.SetPromiscOn(link) }
