package cnisuite

import (
	"context"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
)

// paramRules are about what callers ask of an ADD.
func paramRules() []conformance.Rule[Target] {
	const should, advisory = conformance.Should, conformance.Advisory
	const only = "create the interface defined by CNI_IFNAME inside the container at CNI_NETNS"
	return []conformance.Rule[Target]{
		checked(rule("CNI-ADD-019", should, "capability arguments are acted on (de facto)", "CONVENTIONS.md, Dynamic Plugin specific fields",
			"the plugin is expected to act on the configuration or return an error if it can't"), checkCapabilities),
		checked(rule("CNI-ADD-020", should, "runtimeConfig and args come before CNI_ARGS", "CONVENTIONS.md, CNI_ARGS",
			"If a runtime passes an equivalent key via args (eg the ips args Area and the CNI_ARGS IP Field) and the plugin understands args, the plugin must ignore the CNI_ARGS Field."), checkPrecedence),
		checked(rule("CNI-ADD-021", should, "the configuration's dns is in the result (de facto)", "ADD Success",
			"dns: a dictionary consisting of DNS configuration information"), checkDNS),
		checked(rule("CNI-ADD-022", advisory, "ADD changes no variables of the host's network but forwarding and those of its interfaces", "ADD", only), checkSysctls),
	}
}

// asked are the capability arguments of the profile.
func (l *lab) asked() (map[string]any, error) {
	config, err := l.target.config(l.state())
	if err != nil {
		return nil, err
	}
	args, _ := config["runtimeConfig"].(map[string]any)
	return args, nil
}

// texts are the strings of a JSON array.
func texts(value any) []string {
	var all []string
	list, _ := value.([]any)
	for _, v := range list {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// checkCapabilities checks those arguments whose effect is visible for every plugin.
func checkCapabilities(ctx context.Context, l *lab) error {
	args, err := l.asked()
	if err != nil {
		return err
	}
	dns, _ := args["dns"].(map[string]any)
	if args["mac"] == nil && args["ips"] == nil && dns == nil {
		return conformance.NotApplicable("the profile's runtimeConfig has none of mac, ips and dns")
	}
	c, r, err := l.joined(ctx)
	if err != nil {
		return err
	}
	if err := c.hasMAC(args["mac"]); err != nil {
		return err
	}
	for _, ip := range texts(args["ips"]) {
		bare, _, _ := strings.Cut(ip, "/")
		if !r.has(bare) {
			return fmt.Errorf("the runtime asked for the address %s, the result has %+v", ip, r.IPs)
		}
	}
	d, err := c.details()
	if err != nil {
		return err
	}
	for _, server := range texts(dns["servers"]) {
		if !slices.Contains(d.DNS.Nameservers, server) {
			return fmt.Errorf("the runtime gave the nameserver %s, the result has %v", server, d.DNS.Nameservers)
		}
	}
	return nil
}

// hasMAC expects the hardware address, unless it is nil.
func (c *container) hasMAC(want any) error {
	if want == nil {
		return nil
	}
	seen, err := c.look()
	if err != nil {
		return err
	}
	if seen == nil {
		return conformance.NotApplicable("ADD makes no interface %q in the kernel", c.ifName)
	}
	if !strings.EqualFold(seen.mac, fmt.Sprint(want)) {
		return fmt.Errorf("the runtime asked for the hardware address %v, interface %q has %s", want, c.ifName, seen.mac)
	}
	return nil
}

func checkPrecedence(ctx context.Context, l *lab) error {
	args, err := l.asked()
	if err != nil {
		return err
	}
	if args["mac"] == nil {
		return l.argsBeatEnv(ctx)
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	const inArgs, inEnv = "02:00:00:00:aa:01", "02:00:00:00:aa:02"
	w := with{
		what: "ADD with hardware addresses in runtimeConfig, args and CNI_ARGS",
		keys: map[string]any{"args": map[string]any{"cni": map[string]any{"mac": inArgs}}},
		env:  map[string]string{"CNI_ARGS": "IgnoreUnknown=1;MAC=" + inEnv},
	}
	if _, err := l.addWith(ctx, c, w); err != nil {
		return err
	}
	wrong := c.hasMAC(args["mac"])
	if wrong != nil && c.hasMAC(inArgs) != nil && c.hasMAC(inEnv) != nil {
		return conformance.NotApplicable("the plugin acts on none of them")
	}
	return wrong
}

// argsBeatEnv learns two addresses that the plugin can assign, and requests them
// again.
func (l *lab) argsBeatEnv(ctx context.Context) error {
	var known []string
	for range 2 {
		_, r, err := l.joined(ctx)
		if err != nil {
			return err
		}
		if len(r.IPs) == 0 {
			return conformance.NotApplicable("the result has no addresses")
		}
		known = append(known, r.IPs[0].Address)
	}
	for _, c := range l.made {
		if err := l.del(ctx, c, "DEL"); err != nil {
			return err
		}
	}
	first, second := bareAddress(known[0]), bareAddress(known[1])
	c, r, err := l.asking(ctx, second, "")
	if err != nil {
		return err
	}
	if r == nil || !r.has(second) || r.has(first) {
		return conformance.NotApplicable("the plugin does not give the address that args.cni.ips asks for")
	}
	if err := l.del(ctx, c, "DEL"); err != nil {
		return err
	}
	if _, r, err = l.asking(ctx, second, first); err != nil || r == nil {
		return err
	}
	if !r.has(second) || r.has(first) {
		return fmt.Errorf("args.cni.ips asked for %s and CNI_ARGS for %s, the result has %+v", second, first, r.IPs)
	}
	return nil
}

// asking runs an ADD with addresses in args and CNI_ARGS; a nil result means that it
// was refused.
func (l *lab) asking(ctx context.Context, args, env string) (*container, *result, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, nil, err
	}
	w := with{keys: map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{args}}}}, what: "ADD with args.cni.ips"}
	if env != "" {
		w.what += " and CNI_ARGS IP"
		w.env = map[string]string{"CNI_ARGS": "IgnoreUnknown=1;IP=" + env}
	}
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil || out.failed() == nil {
		return c, nil, err
	}
	var r result
	if err := out.ok(&r); err != nil {
		return nil, nil, err
	}
	c.result = out.stdout
	return c, &r, nil
}

func bareAddress(cidr string) string {
	ip, _, err := net.ParseCIDR(cidr)
	if err != nil {
		return cidr
	}
	return ip.String()
}

func checkDNS(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	dns := map[string]any{"nameservers": []string{"192.0.2.53"}, "domain": "suite.example", "search": []string{"suite.example"}, "options": []string{"ndots:2"}}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with dns in the configuration", keys: map[string]any{"dns": dns}})
	if err != nil {
		return err
	}
	if e, err := out.failure(); err == nil && (e.Code == 2 || e.Code == 7) {
		return conformance.NotApplicable("the plugin has no key dns: %q", e.Msg)
	}
	if err := out.ok(new(any)); err != nil {
		return err
	}
	c.result = out.stdout
	d, err := c.details()
	if err != nil {
		return err
	}
	if !slices.Contains(d.DNS.Nameservers, "192.0.2.53") || d.DNS.Domain != "suite.example" ||
		!slices.Contains(d.DNS.Search, "suite.example") || !slices.Contains(d.DNS.Options, "ndots:2") {
		return fmt.Errorf("the configuration's dns is %v, the result's %+v", dns, d.DNS)
	}
	return nil
}

// checkSysctls looks at the first ADD on the host: later ones find the settings made.
func checkSysctls(ctx context.Context, l *lab) error {
	scope := leak.Scope{Kinds: []leak.Kind{leak.Sysctl}}
	before, err := takeIn(l.host, scope)
	if err != nil {
		return err
	}
	old, err := linksIn(l.host)
	if err != nil {
		return err
	}
	if _, _, err := l.joined(ctx); err != nil {
		return err
	}
	after, err := takeIn(l.host, scope)
	if err != nil {
		return err
	}
	changed := slices.DeleteFunc(before.Diff(after), func(found leak.Leak) bool {
		name, _, _ := strings.Cut(found.Name, " ")
		device := path.Base(path.Dir(name))
		own := old[device] == nil && device != "all" && device != "default" && strings.HasPrefix(path.Dir(path.Dir(path.Dir(name))), "net/ipv")
		return own || strings.HasSuffix(name, "forward") || strings.HasSuffix(name, "forwarding") || l.mayStay(found)
	})
	if len(changed) > 0 {
		return fmt.Errorf("ADD changed variables of the host: %s", list(changed))
	}
	return nil
}
