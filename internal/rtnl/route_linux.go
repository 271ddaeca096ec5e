package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Route is a route over one link.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // the zero Addr means none
	Link    int
	// Table, Priority, MTU and AdvMSS have the kernel's defaults if they are 0.
	Table, Priority, MTU, AdvMSS int
	// Scope nil means link scope for a route without a gateway, else global scope.
	Scope *int
}

// AddRoute adds the route. A second one to the same destination is another path.
func AddRoute(r *Route) *nlsock.Message {
	what := fmt.Sprintf("adding route %s", r.Dst)
	if r.Gateway.IsValid() {
		what += " by " + r.Gateway.String()
	}
	m := nlsock.New(what, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r.header())
	if r.Dst.Bits() > 0 {
		m.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	if r.Gateway.IsValid() {
		m.Bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	m.U32(unix.RTA_OIF, uint32(r.Link))
	if r.Priority > 0 {
		m.U32(unix.RTA_PRIORITY, uint32(r.Priority))
	}
	if r.Table > 0 {
		m.U32(unix.RTA_TABLE, uint32(r.Table))
	}
	if r.MTU > 0 || r.AdvMSS > 0 {
		m.Nest(unix.RTA_METRICS, func() {
			for kind, value := range map[uint16]int{unix.RTAX_MTU: r.MTU, unix.RTAX_ADVMSS: r.AdvMSS} {
				if value > 0 {
					m.U32(kind, uint32(value))
				}
			}
		})
	}
	return m
}

func (r *Route) header() []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = familyOf(r.Dst.Addr().AsSlice()), uint8(r.Dst.Bits())
	b[4], b[5], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RTN_UNICAST
	if r.Table > 0 {
		b[4] = unix.RT_TABLE_UNSPEC // the attribute has it
	}
	switch {
	case r.Scope != nil:
		b[6] = uint8(*r.Scope)
	case !r.Gateway.IsValid() && b[0] == unix.AF_INET:
		b[6] = unix.RT_SCOPE_LINK
	}
	return b
}

// Routes lists the routes of the table, one for each path.
func (c *Conn) Routes(ipv4 bool, table int) (out []Route, err error) {
	header := make([]byte, unix.SizeofRtMsg)
	if header[0] = unix.AF_INET6; ipv4 {
		header[0] = unix.AF_INET
	}
	m := nlsock.New("listing routes", unix.RTM_GETROUTE, unix.NLM_F_DUMP, header)
	m.U32(unix.RTA_TABLE, uint32(table))
	err = c.dump(m, func(entry []byte) {
		for _, r := range parseRoute(entry) {
			if r.Table == table {
				out = append(out, r)
			}
		}
	})
	if IsNotFound(err) { // there was never a route in that table
		return nil, nil
	}
	return out, err
}

// parseRoute parses a route, which has one or several paths; none if it is truncated.
func parseRoute(b []byte) []Route {
	if len(b) < unix.SizeofRtMsg {
		return nil
	}
	attrs := b[unix.SizeofRtMsg:]
	scope := int(b[6])
	r := Route{Table: int(b[4]), Scope: &scope}
	dst := netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	if ip, ok := netip.AddrFromSlice(nlsock.Attr(attrs, unix.RTA_DST)); ok {
		dst = ip
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	var paths []Route
	nlsock.Attrs(attrs, func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_TABLE:
			r.Table = int(nlsock.U32(v))
		case unix.RTA_OIF:
			r.Link = int(nlsock.U32(v))
		case unix.RTA_PRIORITY:
			r.Priority = int(nlsock.U32(v))
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_METRICS:
			r.MTU = int(nlsock.U32(nlsock.Attr(v, unix.RTAX_MTU)))
			r.AdvMSS = int(nlsock.U32(nlsock.Attr(v, unix.RTAX_ADVMSS)))
		case unix.RTA_MULTIPATH:
			paths = parsePaths(v)
		}
	})
	if len(paths) == 0 {
		return []Route{r}
	}
	for i, p := range paths {
		paths[i] = r
		paths[i].Link, paths[i].Gateway = p.Link, p.Gateway
	}
	return paths
}

func parsePaths(b []byte) (out []Route) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		p := Route{Link: int(binary.NativeEndian.Uint32(b[4:]))}
		p.Gateway, _ = netip.AddrFromSlice(nlsock.Attr(b[unix.SizeofRtNexthop:size], unix.RTA_GATEWAY))
		out = append(out, p)
		b = b[min(len(b), (size+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1)):]
	}
	return out
}
