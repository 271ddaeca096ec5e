package hostlocal

import (
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
)

// dns reads the configured resolv.conf(5), if there is one.
func (i *ipam) dns() (dns types.DNS, err error) {
	if i.ResolvConf == "" {
		return dns, nil
	}
	data, err := os.ReadFile(i.ResolvConf)
	if err != nil {
		return dns, cni.Errorf(cni.CodeConfig, "ipam.resolvConf: %w", err)
	}
	return parseResolvConf(string(data)), nil
}

// parseResolvConf keeps what a result can express. As for the resolver, the last of
// several domain and search lines applies, and unknown lines are ignored.
func parseResolvConf(text string) (dns types.DNS) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if end := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' || w[0] == ';' }); end >= 0 {
			words = words[:end]
		}
		if len(words) < 2 {
			continue
		}
		switch rest := words[1:]; words[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, rest[0])
		case "domain":
			dns.Domain = rest[0]
		case "search":
			dns.Search = rest
		case "options":
			dns.Options = append(dns.Options, rest...)
		}
	}
	return dns
}
