package crisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

// netTime is how long a path through the network may take to open or close.
const netTime = 2 * time.Second

func networkRules() []rule {
	return []rule{
		relied("CRI-NET-001", "reports the address at which a Pod answers",
			"Pod status", "The kubelet takes podIP and podIPs from PodSandboxStatus.network, and probes the Pod there.", onNetwork(checkPodIP), Isolation),
		facto("CRI-NET-002", "gives two Pods different addresses, and lets them reach each other",
			"cluster networking", "Every Pod has an address of its own, and Pods reach each other without translation.", onNetwork(checkPodToPod), Isolation),
		facto("CRI-NET-003", "has the loopback interface up in a Pod",
			"cluster networking", "Containers of a Pod reach each other at localhost.", onNetwork(checkLoopback), Isolation),
		must("CRI-NET-004", "gives a Pod the DNS servers, search domains and options of its config",
			"DNSConfig", "DNSConfig specifies the DNS servers and search domains of a sandbox.", checkDNS, Isolation),
		must("CRI-NET-005", "gives a Pod its hostname",
			"PodSandboxConfig", "Hostname of the sandbox. Hostname could only be empty when the pod network namespace is NODE.", onNetwork(checkHostname), Isolation),
		must("CRI-NET-006", "maps a port of the host to the container's",
			"PortMapping", "Port number on the host to map the container port to.", onNetwork(checkHostPort), Isolation, HostPorts),
		must("CRI-NET-007", "maps nothing for a port mapping without a host port",
			"PortMapping", "Implementations MUST handle the case where this field is explicitly set to 0", onNetwork(checkNoHostPort), Isolation),
		heavy(must("CRI-NET-008", "gives a mapped port free when the sandbox is stopped",
			"StopPodSandbox", "StopPodSandbox stops any running process that is part of the sandbox and reclaims network resources (e.g., IP addresses) allocated to the sandbox.", onNetwork(checkPortFreed), Isolation, HostPorts)),
		relied("CRI-NET-010", "answers at every address that it reports for a Pod, if there are several",
			"Pod status", "The kubelet takes podIPs from PodSandboxStatus.network, the additional ones, too: on a node with two families a Pod has one of each.", onNetwork(checkMoreIPs), Isolation),
		must("CRI-NET-011", "maps a port of UDP",
			"PortMapping", "Protocol of the port mapping.", onNetwork(checkUDPPort), Isolation, HostPorts),
		must("CRI-NET-012", "maps a port at the host's address that the mapping names, and at no other",
			"PortMapping", "Host IP.", onNetwork(checkHostIP), Isolation, HostPorts),
		facto("CRI-NET-009", "gives a Pod with the host's network the host's name and resolver",
			"host network", "A Pod with hostNetwork has no hostname in its config, and finds the node's.", checkHostNetworkName, Isolation),
	}
}

// onNetwork is for rules about Pods with a network of their own.
func onNetwork(check look) look {
	return func(ctx context.Context, s *subject) error {
		if !s.network {
			return noNetwork()
		}
		return check(ctx, s)
	}
}

// serving starts a web server in a new Pod and returns the Pod's address. text is one
// word.
func (s *subject) serving(ctx context.Context, text string, edits ...podEdit) (*pod, string, error) {
	p, err := s.pod(ctx, edits...)
	if err != nil {
		return nil, "", err
	}
	b, err := p.start(ctx, "serve --port 8080 --text "+text)
	if err != nil {
		return nil, "", err
	}
	if err := b.says(ctx, "serving on"); err != nil {
		return nil, "", err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return nil, "", err
	}
	ip := st.GetNetwork().GetIp()
	if _, err := netip.ParseAddr(ip); err != nil {
		return nil, "", fmt.Errorf("PodSandboxStatus has the address %q", ip)
	}
	return p, ip, nil
}

// fetch returns the body of a web server's answer.
func fetch(ctx context.Context, address string) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, netTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := (&http.Transport{}).RoundTrip(req) // no proxy
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(data)), err
}

// answers waits until a web server answers with the text.
func answers(ctx context.Context, address, text string) error {
	return until(ctx, netTime, func() error {
		body, err := fetch(ctx, address)
		if err == nil && body != text {
			return fmt.Errorf("%s answers %q, want %q", address, body, text)
		}
		return err
	})
}

func checkPodIP(ctx context.Context, s *subject) error {
	_, ip, err := s.serving(ctx, "pod-"+s.mark)
	if err != nil {
		return err
	}
	return answers(ctx, net.JoinHostPort(ip, "8080"), "pod-"+s.mark)
}

func checkMoreIPs(ctx context.Context, s *subject) error {
	text := "pod-" + s.mark
	p, ip, err := s.serving(ctx, text)
	if err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return err
	}
	if len(st.GetNetwork().GetAdditionalIps()) == 0 {
		return conformance.NotApplicable("the runtime's network gives a Pod one address")
	}
	seen := map[string]bool{ip: true}
	for _, more := range st.GetNetwork().GetAdditionalIps() {
		if _, err := netip.ParseAddr(more.GetIp()); err != nil || seen[more.GetIp()] {
			return fmt.Errorf("PodSandboxStatus has the additional address %q beside %q: want another one each", more.GetIp(), ip)
		}
		seen[more.GetIp()] = true
		if err := answers(ctx, net.JoinHostPort(more.GetIp(), "8080"), text); err != nil {
			return fmt.Errorf("at the additional address: %w", err)
		}
	}
	return nil
}

func checkPodToPod(ctx context.Context, s *subject) error {
	_, one, err := s.serving(ctx, "one")
	if err != nil {
		return err
	}
	other, two, err := s.serving(ctx, "two")
	if err != nil {
		return err
	}
	if one == two {
		return fmt.Errorf("two Pods have the address %s", one)
	}
	out, err := other.prints(ctx, "get --retry 2s "+net.JoinHostPort(one, "8080"))
	if err == nil && strings.TrimSpace(out) != "one" {
		return fmt.Errorf("from the other Pod %s answers %q, want %q", one, out, "one")
	}
	return err
}

func checkLoopback(ctx context.Context, s *subject) error {
	p, _, err := s.serving(ctx, "local")
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "get --retry 2s 127.0.0.1:8080")
	if err == nil && strings.TrimSpace(out) != "local" {
		return fmt.Errorf("at localhost another container of the Pod gets %q", out)
	}
	return err
}

func checkDNS(ctx context.Context, s *subject) error {
	dns := &runtimeapi.DNSConfig{
		Servers: []string{"192.0.2.53", "192.0.2.54"}, Searches: []string{"suite.example", "example"}, Options: []string{"ndots:5", "timeout:1"},
	}
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig = dns })
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "cat /etc/resolv.conf")
	if err != nil {
		return err
	}
	have := resolver(out)
	for _, c := range []struct {
		key  string
		want []string
	}{{"nameserver", dns.Servers}, {"search", dns.Searches}, {"options", dns.Options}} {
		if !slices.Equal(have[c.key], c.want) {
			return fmt.Errorf("the container's resolv.conf has %s %q, want %q", c.key, have[c.key], c.want)
		}
	}
	return nil
}

// resolver returns the content of a resolv.conf(5), by keyword.
func resolver(text string) map[string][]string {
	have := map[string][]string{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[0], "#") {
			have[f[0]] = append(have[f[0]], f[1:]...)
		}
	}
	return have
}

func checkHostname(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "name-of-the-pod" })
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "hostname")
	if err == nil && strings.TrimSpace(out) != "name-of-the-pod" {
		return fmt.Errorf("in the container the hostname is %q, want %q", strings.TrimSpace(out), "name-of-the-pod")
	}
	return err
}

func checkHostNetworkName(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, namespaces(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE }),
		func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "" })
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "do", do("hostname", "cat /etc/resolv.conf"))
	if err != nil {
		return err
	}
	want, err := hostname()
	if err != nil {
		return err
	}
	name, conf, _ := strings.Cut(out, "\n")
	if name != want {
		return fmt.Errorf("in a Pod on the host's network the hostname is %q, want %q", name, want)
	}
	node, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if a, b := resolver(conf)["nameserver"], resolver(string(node))["nameserver"]; !slices.Equal(a, b) {
		return fmt.Errorf("a Pod on the host's network has the name servers %q, and the host %q", a, b)
	}
	return nil
}

// hostAddress returns a non-loopback address of the node, or loopback if it has no other.
func hostAddress() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}

// freePort returns a host port that nobody listens on.
func freePort() (port int, err error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// mapped starts a web server behind a host port. The Pod's ports in more are mapped from
// further host ports.
func (s *subject) mapped(ctx context.Context, more ...int32) (p *pod, address string, err error) {
	var all []*runtimeapi.PortMapping
	for _, of := range append([]int32{8080}, more...) {
		port, err := freePort()
		if err != nil {
			return nil, "", err
		}
		all = append(all, &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, ContainerPort: of, HostPort: int32(port)})
	}
	host, err := hostAddress()
	if err != nil {
		return nil, "", err
	}
	p, _, err = s.serving(ctx, "mapped-"+s.mark, func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = all })
	return p, net.JoinHostPort(host, fmt.Sprint(all[0].GetHostPort())), err
}

func checkHostPort(ctx context.Context, s *subject) error {
	p, address, err := s.mapped(ctx, 8081)
	if err != nil {
		return err
	}
	if err := answers(ctx, address, "mapped-"+s.mark); err != nil {
		return err
	}
	b, err := p.start(ctx, "serve --port 8081 --text second")
	if err != nil {
		return err
	}
	if err := b.says(ctx, "serving on"); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	second := p.config.GetPortMappings()[1].GetHostPort()
	if err := answers(ctx, net.JoinHostPort(host, fmt.Sprint(second)), "second"); err != nil {
		return fmt.Errorf("at the second port mapping of the Pod: %w", err)
	}
	return nil
}

func checkUDPPort(ctx context.Context, s *subject) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	host, err := hostAddress()
	if err != nil {
		return err
	}
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 8080, HostPort: int32(port)}}
	})
	if err != nil {
		return err
	}
	text := "udp-" + s.mark
	b, err := p.start(ctx, "serve-udp --port 8080 --text "+text)
	if err != nil {
		return err
	}
	if err := b.says(ctx, "serving on"); err != nil {
		return err
	}
	address := net.JoinHostPort(host, fmt.Sprint(port))
	return until(ctx, netTime, func() error {
		said, err := asked(ctx, address)
		if err == nil && said != text {
			return fmt.Errorf("over UDP %s answers %q, want %q", address, said, text)
		}
		return err
	})
}

// asked returns the answer to a UDP packet.
func asked(ctx context.Context, address string) (string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(netTime / 4)); err != nil { // the packet may be lost
		return "", err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

func checkHostIP(ctx context.Context, s *subject) error {
	host, err := hostAddress()
	if err != nil {
		return err
	}
	const other = "127.0.0.1"
	if host == other {
		return conformance.NotApplicable("the host has no address but those of loopback")
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	text := "mapped-" + s.mark
	if _, _, err := s.serving(ctx, text, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: int32(port), HostIp: host}}
	}); err != nil {
		return err
	}
	if err := answers(ctx, net.JoinHostPort(host, fmt.Sprint(port)), text); err != nil {
		return fmt.Errorf("at the address that the mapping names: %w", err)
	}
	if body, err := fetch(ctx, net.JoinHostPort(other, fmt.Sprint(port))); err == nil && body == text {
		return fmt.Errorf("the port that is mapped at %s leads to the Pod at %s, too", host, other)
	}
	return nil
}

func checkNoHostPort(ctx context.Context, s *subject) error {
	text := "unmapped-" + s.mark
	_, ip, err := s.serving(ctx, text, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: 0}}
	})
	if err != nil {
		return fmt.Errorf("with a port mapping whose host port is 0: %w", err)
	}
	if err := answers(ctx, net.JoinHostPort(ip, "8080"), text); err != nil {
		return err
	}
	host, err := hostAddress()
	if err != nil {
		return err
	}
	for _, at := range []string{host, "127.0.0.1"} {
		if body, err := fetch(ctx, net.JoinHostPort(at, "8080")); err == nil && body == text {
			return fmt.Errorf("the host's port 8080, which nobody asked for, leads to the Pod at %s", at)
		}
	}
	return nil
}

func checkPortFreed(ctx context.Context, s *subject) error {
	p, address, err := s.mapped(ctx)
	if err != nil {
		return err
	}
	if err := answers(ctx, address, "mapped-"+s.mark); err != nil {
		return fmt.Errorf("before the stop: %w", err)
	}
	if err := s.stop(ctx, p.id); err != nil {
		return err
	}
	return s.hasPort(ctx, address)
}

// hasPort returns nil when a server of the suite can listen on the port and is reached
// there: whoever mapped it before has released it.
func (s *subject) hasPort(ctx context.Context, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	var l net.Listener
	err = until(ctx, netTime, func() (err error) {
		l, err = net.Listen("tcp", ":"+port)
		return err
	})
	if err != nil {
		return fmt.Errorf("behind the stop the port is not free: %w", err)
	}
	own := &http.Server{ReadHeaderTimeout: netTime, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "own") })}
	go func() { _ = own.Serve(l) }() // ends with own.Close
	defer own.Close()
	if err := answers(ctx, address, "own"); err != nil {
		return fmt.Errorf("behind the stop the port still leads elsewhere: %w", err)
	}
	return nil
}
