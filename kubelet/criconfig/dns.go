package criconfig

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The limits of resolv.conf(5) in Kubernetes.
const (
	maxNameservers = 3
	maxSearches    = 32
)

// dns returns the resolver configuration for the Pod: only dnsConfig with policy None,
// and otherwise the node's with dnsConfig added. There is no cluster DNS here, so
// ClusterFirst means Default.
func (b *Builder) dns(p *v1.Pod) (*runtimeapi.DNSConfig, error) {
	config := &runtimeapi.DNSConfig{}
	if p.Spec.DNSPolicy != v1.DNSNone && b.node.ResolvConf != "" {
		data, err := os.ReadFile(b.node.ResolvConf)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading the node's resolver configuration: %w", err)
		}
		config = parseResolvConf(string(data))
	}
	if own := p.Spec.DNSConfig; own != nil {
		config.Servers = unique(append(config.Servers, own.Nameservers...))
		config.Searches = unique(append(config.Searches, own.Searches...))
		for _, o := range own.Options {
			config.Options = setOption(config.Options, o)
		}
	}
	config.Servers = config.Servers[:min(len(config.Servers), maxNameservers)]
	config.Searches = config.Searches[:min(len(config.Searches), maxSearches)]
	return config, nil
}

func parseResolvConf(text string) *runtimeapi.DNSConfig {
	c := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			c.Servers = append(c.Servers, fields[1])
		case "search", "domain": // the last one counts
			c.Searches = slices.Clone(fields[1:])
		case "options":
			c.Options = append(c.Options, fields[1:]...)
		}
	}
	return c
}

// setOption replaces the option of the same name, or adds it.
func setOption(list []string, o v1.PodDNSConfigOption) []string {
	text := o.Name
	if o.Value != nil {
		text += ":" + *o.Value
	}
	list = slices.DeleteFunc(list, func(have string) bool {
		name, _, _ := strings.Cut(have, ":")
		return name == o.Name
	})
	return append(list, text)
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
