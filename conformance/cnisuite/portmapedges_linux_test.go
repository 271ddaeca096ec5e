package cnisuite_test

import (
	"net/netip"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// moreMappers are faults in port mappings of other kinds.
func moreMappers() map[string]func() int {
	return map[string]func() int{
		"map-tcp": mapper(func(_ *exchange, all []map[string]any) []map[string]any {
			return keep(all, func(m map[string]any) bool { return m["protocol"] == "tcp" })
		}),
		"map-remote": mapper(func(x *exchange, all []map[string]any) []map[string]any {
			x.set("snat", false)
			return all
		}),
		"map-lenient": mapper(func(_ *exchange, all []map[string]any) []map[string]any {
			return keep(all, func(m map[string]any) bool {
				ip, given := m["hostIP"].(string)
				_, err := netip.ParseAddr(ip)
				return !given || err == nil
			})
		}),
		"map-any-port": mapper(func(_ *exchange, all []map[string]any) []map[string]any {
			for _, m := range all {
				for _, key := range []string{"hostPort", "containerPort"} {
					m[key] = int(m[key].(float64)) & 0xffff
				}
			}
			return all
		}),
		"map-well":   mapper(nil),
		"map-counts": raw(mapsCounted),
	}
}

func keep(all []map[string]any, such func(map[string]any) bool) []map[string]any {
	out := []map[string]any{}
	for _, m := range all {
		if such(m) {
			out = append(out, m)
		}
	}
	return out
}

func moreMapFaults() []fault {
	return []fault{
		{"map-tcp", "CNI-PORTMAP-011"},
		{"map-remote", "CNI-PORTMAP-012"},
		{"map-lenient", "CNI-PORTMAP-013"},
		{"map-any-port", "CNI-PORTMAP-013"},
	}
}

// TestLocalhostLegal: who says so need not translate what comes from 127.0.0.1.
func TestLocalhostLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tgt := target(t, "map-well")
	declarePortmap(&tgt)
	tgt.Config = `{"capabilities":{"portMappings":true},"snat":false}`
	got := only(t, cnisuite.Suite(), "CNI-PORTMAP-012", tgt)
	if got.Status != conformance.NA {
		t.Errorf("%s: %s", got.Status, got.Message)
	}
}
