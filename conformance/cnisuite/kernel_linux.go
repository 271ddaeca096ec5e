package cnisuite

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What only Linux has, so that the suite can be built on its users' machines.
const (
	allFamilies = netlink.FAMILY_ALL
	familyV6    = netlink.FAMILY_V6
	anyTable    = unix.RT_TABLE_UNSPEC
	linkScope   = netlink.SCOPE_LINK
	permanent   = unix.IFA_F_PERMANENT
)

// ownMounts gives a process a mount namespace of its own.
func ownMounts(attr *syscall.SysProcAttr) { attr.Unshareflags = syscall.CLONE_NEWNS }

// unshape deletes the queueing disciplines other than the kernel's defaults.
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

// switches returns the flags of an interface that can be set, in words.
func switches(flags uint32) (all []string) {
	for _, s := range []struct {
		flag uint32
		word string
	}{{unix.IFF_UP, "up"}, {unix.IFF_PROMISC, "promisc"}, {unix.IFF_ALLMULTI, "allmulticast"}, {unix.IFF_NOARP, "noarp"}} {
		if flags&s.flag != 0 {
			all = append(all, s.word)
		} else {
			all = append(all, "not "+s.word)
		}
	}
	return all
}

// hungOn describes the traffic control and the neighbours that were configured on an
// interface of the calling thread's namespace.
func hungOn(link netlink.Link) (all []string, err error) {
	qdiscs, err := netlink.QdiscList(link)
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		if major, _ := netlink.MajorMinor(q.Attrs().Handle); major != 0 { // the kernel's defaults have none
			all = append(all, fmt.Sprintf("qdisc %s %s", q.Type(), netlink.HandleStr(q.Attrs().Handle)))
		}
	}
	classes, err := netlink.ClassList(link, 0)
	if err != nil {
		return nil, err
	}
	for _, c := range classes {
		all = append(all, fmt.Sprintf("class %s %s", c.Type(), netlink.HandleStr(c.Attrs().Handle)))
	}
	neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	for _, n := range neighbours {
		if n.State == unix.NUD_PERMANENT && (n.Family == unix.AF_INET || n.Family == unix.AF_INET6) {
			all = append(all, fmt.Sprintf("neighbour %s %s", n.IP, n.HardwareAddr))
		}
	}
	return all, err
}

func promiscuous(link netlink.Link) error { return netlink.SetPromiscOn(link) }
