package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestNodeName(t *testing.T) {
	for _, c := range []struct{ asked, host, want string }{
		{"", "host", "host"},
		{"", " Build-Host.Example.COM\n", "build-host.example.com"},
		{"node-1", "Host", "node-1"},
		{"Node-1", "host", ""}, // what somebody asks for is not changed behind their back
		{"a_b", "host", ""},
		{"", "a_b", ""},
		{"", " ", ""},
		{strings.Repeat("a", 64), "host", ""}, // too long for the label
	} {
		got, err := nodeName(c.asked, func() (string, error) { return c.host, nil })
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("asked %q on %q: %q, %v; want %q", c.asked, c.host, got, err, c.want)
		}
	}
	if err := (&Config{Root: "/r", Run: "/s", Name: "n", Keeper: "/k", CNIBinDirs: []string{"bin"}}).setDefaults(); !errors.Is(err, fault.Invalid) {
		t.Errorf("a relative directory of plugins: %v", err)
	}
	away := errors.New("no name")
	if _, err := nodeName("", func() (string, error) { return "", away }); !errors.Is(err, away) {
		t.Errorf("a host that does not say: %v", err)
	}
	if err := (&Config{Root: "/r", Run: "/s", Name: "My_Node", Keeper: "/k"}).setDefaults(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "My_Node") {
		t.Errorf("a configuration with a bad name: %v", err)
	}
}
