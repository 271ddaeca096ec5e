package leak

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

// traffic excludes the queueing disciplines that the kernel chooses by itself, which
// have no handle. It names no handles: who replaces a thing may get another one.
func traffic(scope *Scope) (things, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	qdiscs, err := control(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, 0, 0)
	if err != nil {
		return nil, err
	}
	found := make(things)
	note := func(what string, all []controlled) {
		for _, c := range all {
			name := fmt.Sprintf("%s %s %s", names[c.link], what, c.kind)
			found.add(name, name)
		}
	}
	classified := map[int]bool{}
	for _, q := range qdiscs {
		if q.handle == 0 || !scope.matches(Traffic, names[q.link]) {
			continue
		}
		note("qdisc", []controlled{q})
		parents := []uint32{q.handle}
		if q.kind == "clsact" {
			parents = []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}
		}
		if !classified[q.link] {
			classified[q.link] = true // the kernel lists the classes of all disciplines of the interface
			classes, err := control(unix.RTM_GETTCLASS, unix.RTM_NEWTCLASS, q.link, 0)
			if err != nil {
				return nil, err
			}
			note("class", classes)
			for _, c := range classes {
				parents = append(parents, c.handle)
			}
		}
		for _, parent := range parents {
			filters, err := control(unix.RTM_GETTFILTER, unix.RTM_NEWTFILTER, q.link, parent)
			if err != nil {
				return nil, err
			}
			note("filter", filters)
		}
	}
	return found, nil
}

// controlled is a thing of traffic control.
type controlled struct {
	link   int
	handle uint32
	kind   string
}

// control lists things of traffic control. It decodes no more of them than it must:
// there are kinds that package netlink does not know.
func control(get, reply uint16, link int, parent uint32) ([]controlled, error) {
	all, err := redump.List(func() (all []controlled, err error) {
		request := nl.NewNetlinkRequest(int(get), unix.NLM_F_DUMP)
		request.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(link), Parent: parent})
		replies, err := request.Execute(unix.NETLINK_ROUTE, reply)
		if err != nil {
			return nil, err
		}
		for _, b := range replies {
			m := nl.DeserializeTcMsg(b)
			attrs, err := nl.ParseRouteAttr(b[m.Len():])
			if err != nil {
				return nil, err
			}
			c := controlled{link: int(m.Ifindex), handle: m.Handle}
			for _, a := range attrs {
				if a.Attr.Type == nl.TCA_KIND {
					c.kind = nl.BytesToString(a.Value)
				}
			}
			all = append(all, c)
		}
		return all, nil
	})
	for _, none := range []error{
		unix.EOPNOTSUPP,                       // the kernel has no traffic control
		unix.ENODEV, unix.ENOENT, unix.EINVAL, // the interface or the parent is gone meanwhile
	} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	return all, err
}
