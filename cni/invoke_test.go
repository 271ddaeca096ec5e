package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

type config struct {
	Colour string   `json:"colour"`
	IPAM   cni.IPAM `json:"ipam"`
	Nested struct {
		Depth int `json:"depth"`
	} `json:"nested"`
	Runtime struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
	Address *netip.Addr `json:"address"`
	On      []bool      `json:"on"`
}

// plugin is one that needs no namespace.
func plugin(h cni.Handlers[config]) *cni.Plugin {
	p := cni.New("p", h)
	p.IPAM = true
	return p
}

func env(command string) map[string]string {
	return map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/none"}
}

func invoke(t *testing.T, p *cni.Plugin, command, stdin string) (string, *cni.Error) {
	t.Helper()
	out, err := cni.Invoke(t.Context(), p, env(command), []byte(stdin))
	if err == nil {
		return string(out), nil
	}
	var e *cni.Error
	if !errors.As(err, &e) {
		t.Fatalf("the error is no *cni.Error: %v", err)
	}
	var document cni.Error
	if jerr := json.Unmarshal(out, &document); jerr != nil || document != *e {
		t.Errorf("document %s does not say what the error says: %v", out, err)
	}
	return string(out), e
}

func request(extra string) string {
	return `{"cniVersion":"1.1.0","name":"n","type":"p"` + extra + `}`
}

func TestConfig(t *testing.T) {
	var got *config
	strict := cni.New("p", cni.Handlers[config]{Status: func(_ context.Context, _ *cni.Request, c *config) error { got = c; return nil }})
	cases := []struct {
		extra string
		code  uint
		says  string
	}{
		{`,"colour":"red","nested":{"depth":3},"runtimeConfig":{"mac":"m","new":1},"args":{"x":1},"cni.dev/new":2,"capabilities":{}`, 0, ""},
		{`,"color":"red"`, cni.CodeUnsupportedField, `"color" (value "red")`},
		{`,"Colour":"red"`, cni.CodeUnsupportedField, `"Colour"`},
		{`,"colur":"red"`, cni.CodeUnsupportedField, `(did you mean "colour"?)`},
		{`,"nested":{"deepth":3}`, cni.CodeUnsupportedField, `"deepth" below "nested" (value {"deepth":3}) is not supported (did you mean "depth"?)`},
		{`,"colour":7`, cni.CodeConfig, `"colour": its type is number, and must be string`},
		{`,"address":7`, cni.CodeConfig, `"address": its type is number, and must be string`},
		{`,"on":true`, cni.CodeConfig, `"on": its type is bool, and must be array`},
		{`,"nested":7`, cni.CodeConfig, `"nested": its type is number, and must be object`},
		{`,"prevResult":{"cniVersion":"7"}`, cni.CodeDecode, "prevResult"},
		{`,"prevResult":7`, cni.CodeDecode, "reading prevResult: decoding result: its type is number, and must be object"},
		{`,"prevResult":{"dns":[]}`, cni.CodeDecode, `decoding result: key "dns": its type is array, and must be object`},
		{`,"prevResult":{"ips":"x"}`, cni.CodeDecode, `reading prevResult: decoding result: key "ips": its type is string, and must be array`},
		{`,"prevResult":{"cniVersion":"1.0.0","ips":[{"address":7}]}`, cni.CodeDecode, `address": its type is number, and must be string`},
		{`,"runtimeConfig":7`, cni.CodeConfig, `"runtimeConfig": its type is number, and must be object`},
		{`,"name":7`, cni.CodeDecode, "decoding name: its type is number, and must be string"},
		{`,"cniVersion":[]`, cni.CodeDecode, "decoding cniVersion: its type is array, and must be string"},
		{`} {"more":1`, cni.CodeDecode, "follows the document"},
	}
	for _, c := range cases {
		_, e := invoke(t, strict, cni.CmdStatus, request(c.extra))
		switch {
		case e == nil && c.code != 0, e != nil && e.Code != c.code, e != nil && !strings.Contains(e.Msg, c.says):
			t.Errorf("%s: %v, want code %d, %q", c.extra, e, c.code, c.says)
		case e == nil && (got.Colour != "red" || got.Nested.Depth != 3 || got.Runtime.MAC != "m"):
			t.Errorf("%s: decoded %+v", c.extra, got)
		}
	}
	for _, wrong := range []string{`,"color":"red"`, `,"colour":7`, `,"runtimeConfig":[]`, `,"ipam":"x"`} {
		if _, e := invoke(t, strict, cni.CmdDel, request(wrong)); e != nil {
			t.Errorf("DEL with %s: %v", wrong, e)
		}
	}
}

// TestErrorVersion: an error has the version of the request, whatever was wrong first.
func TestErrorVersion(t *testing.T) {
	p := plugin(cni.Handlers[config]{})
	bad := env(cni.CmdAdd)
	bad["CNI_IFNAME"] = ""
	for stdin, want := range map[string]string{
		`{"cniVersion":"0.4.0","name":"n"}`: "0.4.0",
		`{"cniVersion":7,"name":"n"}`:       cni.Newest,
		`{"cniVersion":"0.4.0"`:             cni.Newest,
	} {
		_, err := cni.Invoke(t.Context(), p, bad, []byte(stdin))
		if e, ok := errors.AsType[*cni.Error](err); !ok || e.Code != cni.CodeEnvironment || e.CNIVersion != want {
			t.Errorf("%s: %#v, want code 4 and version %s", stdin, err, want)
		}
	}
}

type (
	base   struct{ Shared string }
	Remote struct {
		Far string `json:"far"`
	}
	shapes struct {
		base
		*Remote
		Quoted int    `json:"quoted,string"`
		Empty  []int  `json:"empty,omitempty"`
		Shared string `json:"Shared"` // hides that of base
	}
)

// TestConfigShapes: fields are filled as encoding/json fills them, however they are
// declared.
func TestConfigShapes(t *testing.T) {
	const document = `"far":"f","quoted":"7","empty":[1],"Shared":"s"`
	var want, got shapes
	if err := json.Unmarshal([]byte("{"+document+"}"), &want); err != nil {
		t.Fatal(err)
	}
	p := cni.New("p", cni.Handlers[shapes]{Status: func(_ context.Context, _ *cni.Request, c *shapes) error { got = *c; return nil }})
	if _, e := invoke(t, p, cni.CmdStatus, request(","+document)); e != nil {
		t.Fatal(e)
	}
	if !reflect.DeepEqual(got, want) || want.Far != "f" || want.Quoted != 7 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, e := invoke(t, p, cni.CmdStatus, request(`,"quoted":7`)); e == nil || e.Code != cni.CodeConfig {
		t.Errorf("a number where a string belongs: %v", e)
	}
}

// own decodes itself.
type own struct{ Doubled int }

func (o *own) UnmarshalJSON(data []byte) error {
	var in struct {
		Doubled int `json:"Doubled"`
	}
	err := json.Unmarshal(data, &in)
	o.Doubled = 2 * in.Doubled
	return err
}

func TestConfigThatDecodesItself(t *testing.T) {
	var got own
	p := cni.New("p", cni.Handlers[own]{Status: func(_ context.Context, _ *cni.Request, c *own) error { got = *c; return nil }})
	if _, e := invoke(t, p, cni.CmdStatus, request(`,"Doubled":21`)); e != nil || got.Doubled != 42 {
		t.Errorf("%+v, %v", got, e)
	}
}

// Delegating is embedded by pointer.
type Delegating struct {
	IPAM cni.IPAM `json:"ipam"`
}

// TestNoDelegateBelowNil: a configuration whose IPAM field is not there delegates
// nothing.
func TestNoDelegateBelowNil(t *testing.T) {
	p := cni.New("p", cni.Handlers[struct{ *Delegating }]{})
	if _, e := invoke(t, p, cni.CmdDel, request("")); e != nil {
		t.Errorf("DEL: %v", e)
	}
}

func TestVersionsOfVerbs(t *testing.T) {
	for command, oldest := range map[string]string{"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"} {
		for _, v := range append(cni.Versions(), "0.0.1", "1.2.0", "", "x") {
			stdin := fmt.Sprintf(`{"cniVersion":%q,"name":"n","cni.dev/valid-attachments":[],"prevResult":{"cniVersion":"1.0.0"}}`, v)
			_, e := invoke(t, plugin(cni.Handlers[config]{}), command, stdin)
			want := slices.Contains(cni.Versions(), v) && cni.AtLeast(v, oldest)
			if (e == nil) != want || e != nil && e.Code != cni.CodeVersion {
				t.Errorf("%s of %q: %v", command, v, e)
			}
			if wrong := "is not supported"; e != nil && slices.Contains(cni.Versions(), v) && (strings.Contains(e.Msg, wrong) || !strings.Contains(e.Msg, oldest)) {
				t.Errorf("%s of %q, which is a version of others: %v", command, v, e)
			}
		}
	}
}

func TestMissingVersion(t *testing.T) {
	for _, stdin := range []string{`{"name":"n"}`, `{"name":"n","cniVersion":""}`} {
		_, e := invoke(t, plugin(cni.Handlers[config]{}), cni.CmdAdd, stdin)
		if e == nil || e.Code != cni.CodeVersion || !strings.HasPrefix(e.Msg, "cniVersion is missing") {
			t.Errorf("%s: %v", stdin, e)
		}
	}
}

// TestResultVersions asks for every version of one result.
func TestResultVersions(t *testing.T) {
	raw := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400,"sandbox":"/ns"}],"ips":[{"address":"10.0.0.2/24","interface":0}],"routes":[{"dst":"0.0.0.0/0","mtu":1300,"table":77}]}`
	result, err := types100.NewResult([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	p := plugin(cni.Handlers[config]{Add: func(context.Context, *cni.Request, *config) (*cni.Result, error) { return result.(*cni.Result), nil }})
	for _, v := range cni.Versions() {
		out, e := invoke(t, p, cni.CmdAdd, fmt.Sprintf(`{"cniVersion":%q,"name":"n"}`, v))
		if e != nil {
			t.Fatal(e)
		}
		for text, want := range map[string]bool{
			fmt.Sprintf(`"cniVersion":%q`, v): true,
			`"ip4":{"ip":"10.0.0.2/24"`:       !cni.AtLeast(v, "0.3.0"),
			`"version":"4"`:                   cni.AtLeast(v, "0.3.0") && !cni.AtLeast(v, "1.0.0"),
			`"mtu":1400`:                      cni.AtLeast(v, "1.1.0"),
			`"mtu":1300,"table":77`:           cni.AtLeast(v, "0.3.0"),
		} {
			if strings.Contains(out, text) != want {
				t.Errorf("version %s: %s has %s: %t, want %t", v, out, text, !want, want)
			}
		}
		back, err := cni.DecodeResult([]byte(out), "")
		if err != nil || len(back.IPs) != 1 || cni.AtLeast(v, "0.3.0") && (len(back.Interfaces) != 1 || back.IPs[0].Interface == nil) {
			t.Errorf("version %s read back: %v, %v", v, back, err)
		}
	}
}

func TestPrevResultPassesUntouched(t *testing.T) {
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"x","vendor":{"big":1152921504606846977}}]}`
	out, e := invoke(t, plugin(cni.Handlers[config]{}), cni.CmdAdd, request(`,"prevResult":`+prev))
	if e != nil || out != prev {
		t.Errorf("got %s, %v", out, e)
	}
}

// TestFailedAdd looks at the rollback and at the code, by what made ADD fail.
func TestFailedAdd(t *testing.T) {
	cases := map[string]struct {
		fail func() error
		code uint
	}{
		"code":    {func() error { return fmt.Errorf("wrapped: %w", cni.Errorf(cni.CodeTryAgain, "later")) }, cni.CodeTryAgain},
		"theirs":  {func() error { return fmt.Errorf("wrapped: %w", types.NewError(types.ErrTryAgainLater, "later", "")) }, cni.CodeTryAgain},
		"kind":    {func() error { return fault.Exhausted.Errorf("none left") }, cni.CodeExhausted},
		"plain":   {func() error { return errors.New("broken") }, cni.CodeInternal},
		"panic":   {func() error { panic("an author's mistake") }, cni.CodePanic},
		"timeout": {func() error { return context.DeadlineExceeded }, cni.CodeTryAgain},
	}
	for name, c := range cases {
		var undone []string
		p := plugin(cni.Handlers[config]{Add: func(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
			for _, step := range []string{"first", "second"} {
				r.Undo(step, func(ctx context.Context) error {
					undone = append(undone, step)
					if step == "second" {
						panic("in the rollback too")
					}
					return ctx.Err()
				})
			}
			return &cni.Result{}, c.fail()
		}})
		out, e := invoke(t, p, cni.CmdAdd, request(""))
		if e == nil || e.Code != c.code || e.CNIVersion != "1.1.0" || strings.Count(out, "cniVersion") != 1 {
			t.Errorf("%s: %s, want code %d", name, out, c.code)
		}
		if !slices.Equal(undone, []string{"second", "first"}) {
			t.Errorf("%s: undone %q", name, undone)
		}
		if e != nil && !strings.Contains(e.Msg, "undoing second") {
			t.Errorf("%s: the error hides that the rollback failed: %s", name, e.Msg)
		}
	}
}

// TestHandlerThatExits: what a handler that ends its goroutine has to be followed by is
// done all the same, and so is the rest of a rollback.
func TestHandlerThatExits(t *testing.T) {
	var calls []string
	note := func(_ context.Context, r *cni.Request) error {
		calls = append(calls, r.Command)
		return nil
	}
	ipam := &cni.Plugin{Name: "ipam", IPAM: true, Del: note, GC: note, Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		return &cni.Result{}, note(ctx, r)
	}}
	exit := func(context.Context, *cni.Request, *config) error {
		runtime.Goexit()
		return nil
	}
	p := cni.New("p", cni.Handlers[config]{Del: exit, GC: exit, Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
		if _, err := r.Delegate(c.IPAM.Type).Add(ctx); err != nil {
			return nil, err
		}
		r.Undo("it", func(context.Context) error {
			calls = append(calls, "undone")
			runtime.Goexit()
			return nil
		})
		return nil, exit(ctx, r, c)
	}})
	set := cni.Set{"p": p, "ipam": ipam}
	for command, want := range map[string]string{"ADD": "ADD undone DEL", "DEL": "DEL", "GC": "GC"} {
		calls = nil
		p.IPAM = command == cni.CmdAdd // then no namespace is opened
		var done sync.WaitGroup
		done.Go(func() {
			_, err := set.Invoke(t.Context(), "p", env(command), []byte(request(`,"ipam":{"type":"ipam"},"cni.dev/valid-attachments":[]`)))
			t.Errorf("%s returned %v", command, err)
		})
		done.Wait()
		if got := strings.Join(calls, " "); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// TestDelegate calls an IPAM plugin inside the process.
func TestDelegate(t *testing.T) {
	var calls []string
	ipam := &cni.Plugin{Name: "ipam", IPAM: true}
	note := func(_ context.Context, r *cni.Request) error {
		calls = append(calls, r.Command+" "+r.ContainerID+" "+r.Network)
		return nil
	}
	ipam.Del = note
	ipam.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		if err := note(ctx, r); err != nil || r.ContainerID == "unlucky" {
			return nil, cni.Errorf(cni.CodeExhausted, "none for %s", r.ContainerID)
		}
		return &cni.Result{IPs: []*types100.IPConfig{}}, nil
	}
	p := plugin(cni.Handlers[config]{Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
		result, err := r.Delegate(c.IPAM.Type).Add(ctx)
		if err == nil && r.ContainerID == "late" {
			err = errors.New("after IPAM")
		}
		return result, err
	}})
	set := cni.Set{"p": p, "ipam": ipam}
	for id, want := range map[string]string{
		"lucky":   "ADD lucky n",
		"unlucky": "ADD unlucky n, DEL unlucky n",
		"late":    "ADD late n, DEL late n",
	} {
		calls = nil
		e := env("ADD")
		e["CNI_CONTAINERID"] = id
		_, err := set.Invoke(t.Context(), "p", e, []byte(request(`,"ipam":{"type":"ipam","range":"x"}`)))
		if got := strings.Join(calls, ", "); got != want || (err == nil) != (id == "lucky") {
			t.Errorf("%s: delegated %q, want %q (%v)", id, got, want, err)
		}
		if id == "unlucky" && cni.CodeOf(err) != cni.CodeExhausted {
			t.Errorf("the delegate's code was lost: %v", err)
		}
	}
	e := env("ADD")
	e["CNI_PATH"] = "/nowhere:/nowhere/else"
	if _, err := set.Invoke(t.Context(), "p", e, []byte(request(`,"ipam":{"type":"absent"}`))); !strings.Contains(fmt.Sprint(err), `"/nowhere/else"`) || strings.Contains(fmt.Sprint(err), "undoing") {
		t.Errorf("a delegate that is nowhere: %v", err)
	}
}

// TestDelegateWithoutType is what a user sees first who leaves out "ipam".
func TestDelegateWithoutType(t *testing.T) {
	p := plugin(cni.Handlers[config]{Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
		return r.Delegate(c.IPAM.Type).Add(ctx)
	}})
	for extra, says := range map[string]string{
		"":                           `configuration key "ipam.type" is missing`,
		`,"ipam":{"subnet":"x"}`:     `configuration key "ipam.type" is missing`,
		`,"ipam":{"type":"../else"}`: `"../else" is no plugin type`,
	} {
		_, e := invoke(t, p, cni.CmdAdd, request(extra))
		if e == nil || e.Code != cni.CodeConfig || !strings.HasPrefix(e.Msg, says) || strings.Contains(e.Msg, "undoing") {
			t.Errorf("%s: %v", extra, e)
		}
	}
}

func TestEnvironment(t *testing.T) {
	cases := map[string]struct{ name, value, says string }{
		"id":         {"CNI_CONTAINERID", "-x", "CNI_CONTAINERID"},
		"long":       {"CNI_IFNAME", "sixteen-bytes-ab", "CNI_IFNAME"},
		"slash":      {"CNI_IFNAME", "a/b", "CNI_IFNAME"},
		"dots":       {"CNI_IFNAME", "..", "CNI_IFNAME"},
		"pattern":    {"CNI_IFNAME", "eth%d", "CNI_IFNAME"},
		"netns":      {"CNI_NETNS", "", "CNI_NETNS"},
		"args":       {"CNI_ARGS", "A=1;B", "CNI_ARGS"},
		"no command": {"CNI_COMMAND", "", "CNI_COMMAND"},
	}
	for name, c := range cases {
		e := env("ADD")
		e[c.name] = c.value
		_, err := cni.Invoke(t.Context(), plugin(cni.Handlers[config]{}), e, []byte(request("")))
		if cni.CodeOf(err) != cni.CodeEnvironment || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var args map[string]string
	var trace string
	p := plugin(cni.Handlers[config]{Add: func(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
		args, trace = r.Args, r.Trace
		return &cni.Result{}, nil
	}})
	e := env("ADD")
	e["TRACEPARENT"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	e["CNI_ARGS"] = "IgnoreUnknown=1;X=a=b;"
	if _, err := cni.Invoke(t.Context(), p, e, []byte(request(""))); err != nil || args["X"] != "a=b" || len(args) != 2 {
		t.Errorf("CNI_ARGS %q: %v, %v", e["CNI_ARGS"], args, err)
	}
	if trace != e["TRACEPARENT"] {
		t.Errorf("the trace context is %q", trace)
	}
}

func TestStatusCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want uint
	}{
		{errors.New("plain"), cni.CodeUnavailable},
		{cni.Errorf(cni.CodeTryAgain, "later"), cni.CodeUnavailable},
		{cni.Errorf(cni.CodeLimitedConnection, "worse"), cni.CodeLimitedConnection},
		{cni.Errorf(cni.CodeConfig, "bad"), cni.CodeConfig},
	} {
		p := plugin(cni.Handlers[config]{Status: func(context.Context, *cni.Request, *config) error { return c.err }})
		if _, e := invoke(t, p, cni.CmdStatus, request("")); e == nil || e.Code != c.want {
			t.Errorf("%v: %v, want code %d", c.err, e, c.want)
		}
	}
}

func TestMerge(t *testing.T) {
	prev := &cni.Result{Interfaces: []*types100.Interface{{Name: "a"}}, IPs: []*types100.IPConfig{{Interface: types100.Int(0)}}}
	own := &cni.Result{Interfaces: []*types100.Interface{{Name: "b"}}, IPs: []*types100.IPConfig{{Interface: types100.Int(0)}, {}}}
	got := cni.Merge(prev, own)
	if len(got.Interfaces) != 2 || *got.IPs[0].Interface != 0 || *got.IPs[1].Interface != 1 || got.IPs[2].Interface != nil || *own.IPs[0].Interface != 0 {
		t.Errorf("merged %+v, own is now %+v", got, own)
	}
}

// TestOlderResult: 1.1.0 brought mtu, socketPath and pciID of interfaces, which older
// results leave out, and all but dst and gw of routes, which they keep.
func TestOlderResult(t *testing.T) {
	r := &cni.Result{
		Interfaces: []*types100.Interface{{Name: "a", Mtu: 1400, PciID: "x", SocketPath: "/s"}},
		Routes:     []*types.Route{{Dst: net.IPNet{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}, MTU: 1300, Priority: 5}},
	}
	for version, want := range map[string]bool{"0.4.0": false, "1.0.0": false, "1.1.0": true} {
		out, err := cni.EncodeResult(r, version)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{`"mtu":1400`, "pciID", "socketPath"} {
			if strings.Contains(string(out), key) != want {
				t.Errorf("%s: %s", version, out)
			}
		}
		if !strings.Contains(string(out), `"mtu":1300,"priority":5`) {
			t.Errorf("%s has lost what the route has: %s", version, out)
		}
	}
}

// TestResultIsWrittenAsUpstreamDoes: upstream's types are the ones to agree with.
func TestResultIsWrittenAsUpstreamDoes(t *testing.T) {
	dst := net.IPNet{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}
	full := &cni.Result{
		Interfaces: []*types100.Interface{{Name: "a", Mac: "02:00:00:00:00:01", Mtu: 1400, Sandbox: "/ns", SocketPath: "/s", PciID: "x"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(0), Address: dst, Gateway: net.IPv4(10, 0, 0, 1)}},
		Routes:     []*types.Route{{Dst: dst, GW: net.IPv4(10, 0, 0, 1), MTU: 1400, AdvMSS: 1, Priority: 5, Table: types100.Int(3), Scope: types100.Int(0)}},
		DNS:        types.DNS{Nameservers: []string{"10.0.0.53"}, Domain: "d", Search: []string{"s"}, Options: []string{"o"}},
	}
	for _, r := range []*cni.Result{full, {}, {DNS: types.DNS{Options: []string{"o"}}}, {Interfaces: []*types100.Interface{}}} {
		got, err := cni.EncodeResult(r, cni.Newest)
		if err != nil {
			t.Fatal(err)
		}
		theirs := *r
		theirs.CNIVersion = cni.Newest
		want, err := json.Marshal(&theirs)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(want, &b)); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s, upstream %s: %v", got, want, err)
		}
	}
}

// TestBadResultIsUndone: a result that cannot be written is a failed ADD.
func TestBadResultIsUndone(t *testing.T) {
	for _, version := range []string{"1.0.0", "1.1.0"} {
		undone := false
		p := plugin(cni.Handlers[config]{Add: func(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
			r.Undo("it", func(context.Context) error { undone = true; return nil })
			return &cni.Result{Interfaces: []*types100.Interface{nil}}, nil
		}})
		if _, e := invoke(t, p, cni.CmdAdd, `{"cniVersion":"`+version+`","name":"n","type":"p"}`); e == nil || !undone {
			t.Errorf("%s: %v, undone %v", version, e, undone)
		}
	}
}

// FuzzInvoke: whatever stands on stdin and in CNI_ARGS, there is one document
// or none, and no panic of the SDK's own.
func FuzzInvoke(f *testing.F) {
	f.Add("ADD", "A=1", request(`,"prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.1/8"}]}`))
	f.Add("DEL", "", request(`,"prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"}}`))
	f.Add("ADD", "", request(`,"prevResult":{"cniVersion":"0.4.0","interfaces":[null],"ips":[null],"routes":[null]}`))
	f.Add("CHECK", "", request(`,"prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8","routes":[null]}}`))
	f.Add("GC", ";", request(`,"cni.dev/valid-attachments":null`))
	f.Add("VERSION", "", `{"cniVersion":7}`)
	f.Fuzz(func(t *testing.T, command, args, stdin string) {
		e := env(command)
		e["CNI_ARGS"] = args
		out, err := cni.Invoke(t.Context(), plugin(cni.Handlers[config]{}), e, []byte(stdin))
		if len(out) > 0 && !json.Valid(out) || err != nil && len(out) == 0 || cni.CodeOf(err) == cni.CodePanic {
			t.Errorf("%q, %v", out, err)
		}
	})
}
