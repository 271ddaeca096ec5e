package rtnl

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParsePaths: a route by several paths, one of which has an odd length.
func TestParsePaths(t *testing.T) {
	hop := func(link byte, gateway ...byte) []byte {
		b := []byte{8, 0, 0, 0, link, 0, 0, 0}
		if gateway != nil {
			b = append(append(b, byte(4+len(gateway)), 0, unix.RTA_GATEWAY, 0), gateway...)
		}
		b[0] = byte(len(b))
		return b
	}
	odd := append(hop(3), 5, 0, 99, 0, 1)
	odd[0] = byte(len(odd))
	raw := append(append(append(hop(2, 10, 0, 0, 1), odd...), 0, 0, 0), hop(4)...)
	want := []Route{{Link: 2, Gateway: netip.MustParseAddr("10.0.0.1")}, {Link: 3}, {Link: 4}}
	if got := parsePaths(raw); !slices.Equal(got, want) {
		t.Errorf("%+v instead of %+v", got, want)
	}
}

// FuzzParse: no answer makes a parser panic or run for ever.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), 12, 0, unix.IFLA_LINKINFO, 0, 8, 0, infoKind, 0, 'b', 'r', 0, 0))
	f.Add(append(make([]byte, unix.SizeofRtMsg), 12, 0, unix.RTA_MULTIPATH, 0, 8, 0, 0, 0, 1, 0, 0, 0))
	// VLANs up to the greatest number of 16 bits.
	f.Add(append(make([]byte, sizeOfVLANHeader), 20, 0, vlanEntry, 0, 8, 0, vlanInfo, 0, 0, 0, 0xf0, 0xff, 6, 0, vlanRange, 0, 0xff, 0xff, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l := parseLink(b); l == nil {
			t.Error("no link")
		}
		parseRoute(b)
		parseAddress(b)
		parsePaths(b)
		if all := parseVLANs(b); len(all) > len(b)*(1<<16) {
			t.Errorf("%d VLANs", len(all))
		}
	})
}
