package cnisuite

import (
	"errors"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/redump"
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
	all, err := redump.List(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
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

// addForeignRules adds an nftables table that no plugin has anything to do with, with
// one of everything, to the calling thread's namespace. A kernel without nftables has
// none.
func addForeignRules() error {
	rules := &nft.Ruleset{
		Table: foreignTable,
		Sets:  []nft.Set{{Name: "addresses", Key: []nftables.SetDatatype{nftables.TypeIPAddr}}},
		Chains: []nft.Chain{{
			Name: "forward", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
			Rules: [][]expr.Any{append(nft.EntersBy("nowhere0"), nft.Accept()...)},
		}},
	}
	conn, err := nft.Open()
	if err != nil {
		return err
	}
	err = conn.Try(rules)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return conn.Close()
	}
	if err == nil {
		err = conn.Add(nft.Group{Rules: rules, Elements: []nft.Element{{Set: "addresses", Key: []byte{192, 0, 2, 77}}}})
	}
	return errors.Join(err, conn.Close())
}

func promiscuous(link netlink.Link) error { return netlink.SetPromiscOn(link) }
