package cni_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
)

type params struct {
	MAC   string   `json:"-" cni:"mac,MAC"`
	IPs   []string `json:"-" cni:"ips,IP"`
	Limit int      `json:"-" cni:"limit,LIMIT"`
	Ports []struct {
		HostPort int `json:"hostPort"`
	} `json:"-" cni:"portMappings"`
}

// TestParams holds the order of the conventions: runtimeConfig, args, CNI_ARGS.
func TestParams(t *testing.T) {
	var got *params
	p := cni.New("p", cni.Handlers[params]{
		Status: func(_ context.Context, _ *cni.Request, c *params) error { got = c; return nil },
		Del:    func(_ context.Context, _ *cni.Request, c *params) error { got = c; return nil },
	})
	const first, second = `"runtimeConfig":{"mac":"1","ips":["a"],"portMappings":[{"hostPort":80,"new":1}]}`, `"args":{"cni":{"mac":"2","ips":["b","c"],"limit":7},"other":{"mac":"x"}}`
	for _, c := range []struct {
		json, args string
		mac        string
		ips        []string
		limit      int
	}{
		{"", "", "", nil, 0},
		{"", "MAC=3;IP=10.0.0.1,fd00::1;LIMIT=9", "3", []string{"10.0.0.1", "fd00::1"}, 9},
		{"," + second, "MAC=3;IP=d", "2", []string{"b", "c"}, 7},
		{"," + first + "," + second, "MAC=3", "1", []string{"a"}, 7},
	} {
		e := env(cni.CmdStatus)
		e["CNI_ARGS"] = c.args
		if _, err := cni.Invoke(t.Context(), p, e, []byte(request(c.json))); err != nil {
			t.Fatal(err)
		}
		if got.MAC != c.mac || !slices.Equal(got.IPs, c.ips) || got.Limit != c.limit {
			t.Errorf("%s and %q: %+v", c.json, c.args, got)
		}
	}
	if len(got.Ports) != 1 || got.Ports[0].HostPort != 80 {
		t.Errorf("portMappings: %+v", got.Ports)
	}
	for says, c := range map[string][2]string{
		"runtimeConfig.mac (value 7)":    {`,"runtimeConfig":{"mac":7}`, ""},
		"CNI_ARGS LIMIT (value many)":    {"", "LIMIT=many"},
		`configuration key "args"`:       {`,"args":[]`, ""},
		"args.cni.portMappings (value {": {`,"args":{"cni":{"portMappings":{}}}`, ""},
	} {
		e := env(cni.CmdStatus)
		e["CNI_ARGS"] = c[1]
		_, err := cni.Invoke(t.Context(), p, e, []byte(request(c[0])))
		if cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %s", c, err, says)
		}
		e["CNI_COMMAND"] = cni.CmdDel // which removes what it can
		if _, err := cni.Invoke(t.Context(), p, e, []byte(request(c[0]))); err != nil {
			t.Errorf("DEL with %v: %v", c, err)
		}
	}
	if _, err := cni.Invoke(t.Context(), p, env(cni.CmdStatus), []byte(request(`,"mac":"x"`))); cni.CodeOf(err) != cni.CodeUnsupportedField {
		t.Errorf("mac as a key of the configuration: %v", err)
	}
}

// TestArgumentTypes: a field may be of any type that runtimeConfig could fill, and gets the
// same from CNI_ARGS.
func TestArgumentTypes(t *testing.T) {
	type typed struct {
		Addr  netip.Addr   `json:"-" cni:"addr,ADDR"`
		Old   net.IP       `json:"-" cni:"old,OLD"`
		Addrs []netip.Addr `json:"-" cni:"addrs,ADDRS"`
		Word  *string      `json:"-" cni:"word,WORD"`
		Count *int         `json:"-" cni:"count,COUNT"`
		On    bool         `json:"-" cni:"on,ON"`
	}
	var got *typed
	p := cni.New("p", cni.Handlers[typed]{Status: func(_ context.Context, _ *cni.Request, c *typed) error { got = c; return nil }})
	for args, has := range map[string]func() bool{
		"ADDR=10.0.0.1":          func() bool { return got.Addr == netip.MustParseAddr("10.0.0.1") },
		"OLD=fd00::1":            func() bool { return got.Old.Equal(net.ParseIP("fd00::1")) },
		"ADDRS=10.0.0.1,fd00::1": func() bool { return len(got.Addrs) == 2 && got.Addrs[1] == netip.MustParseAddr("fd00::1") },
		"WORD=12":                func() bool { return got.Word != nil && *got.Word == "12" },
		"COUNT=12":               func() bool { return got.Count != nil && *got.Count == 12 },
		"ON=1":                   func() bool { return got.On },
		"ON=true":                func() bool { return got.On },
		"ON=0":                   func() bool { return !got.On },
	} {
		e := env(cni.CmdStatus)
		e["CNI_ARGS"] = args
		if _, err := cni.Invoke(t.Context(), p, e, []byte(request(""))); err != nil || !has() {
			t.Errorf("%s: %+v, %v", args, got, err)
		}
	}
}
