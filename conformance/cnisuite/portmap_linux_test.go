package cnisuite_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

// mapper is the plugin for port mappings behind something that spoils its input.
func mapper(spoil func(x *exchange, mappings []map[string]any) []map[string]any) func() int {
	return raw(func(x *exchange) (string, int) {
		config := x.config()
		if args, ok := config["runtimeConfig"].(map[string]any); ok && spoil != nil {
			var mappings []map[string]any
			text, _ := json.Marshal(args["portMappings"])
			_ = json.Unmarshal(text, &mappings)
			args["portMappings"] = spoil(x, mappings)
			x.set("runtimeConfig", args)
		}
		out, err := cni.Invoke(context.Background(), portmap.Plugin(), x.env, x.stdin)
		if err != nil {
			return string(out), 1
		}
		return string(out), 0
	})
}

// loopbacks are the plugin that sets the loopback interface up.
func loopbacks() map[string]func() int {
	return map[string]func() int{"loopback": func() int { cni.Main(loopback.Plugin()); return 0 }}
}

func mappers() map[string]func() int {
	return map[string]func() int{
		"map-nothing": mapper(func(_ *exchange, m []map[string]any) []map[string]any { return m[:0] }),
		"map-15":      mapper(func(_ *exchange, m []map[string]any) []map[string]any { return m[:min(15, len(m))] }),
		"map-any-ip": mapper(func(_ *exchange, m []map[string]any) []map[string]any {
			for _, one := range m {
				delete(one, "hostIP")
			}
			return m
		}),
		"map-twice": mapper(func(x *exchange, m []map[string]any) []map[string]any {
			x.set("nftTable", strings.ReplaceAll(x.env["CNI_CONTAINERID"], "-", "_"))
			return m
		}),
		"map-all": mapper(func(x *exchange, m []map[string]any) []map[string]any {
			if x.command() == "ADD" {
				_ = exec.Command("nft", `add table ip captured; add chain ip captured out { type nat hook output priority -150; };
					add rule ip captured out tcp dport 18080 dnat to 10.124.0.2:8080`).Run()
			}
			return m
		}),
		"map-4": mapper(func(x *exchange, m []map[string]any) []map[string]any {
			text, _ := json.Marshal(x.config()["prevResult"])
			var prev map[string]any
			_ = json.Unmarshal(text, &prev)
			if ips, ok := prev["ips"].([]any); ok {
				prev["ips"] = ips[:1]
				x.set("prevResult", prev)
			}
			return m
		}),
		"map-for-ever": raw(func(x *exchange) (string, int) {
			if x.command() == "DEL" && x.config()["runtimeConfig"] == nil {
				return "", 0
			}
			out, err := cni.Invoke(context.Background(), portmap.Plugin(), x.env, x.stdin)
			if err != nil {
				return string(out), 1
			}
			return string(out), 0
		}),
	}
}

// portmapFaults are the plugins that the rules on port mappings must catch.
func portmapFaults() []fault {
	return []fault{
		{"map-nothing", "CNI-PORTMAP-001"},
		{"map-nothing", "CNI-PORTMAP-002"},
		{"map-nothing", "CNI-PORTMAP-003"},
		{"map-nothing", "CNI-PORTMAP-004"},
		{"map-nothing", "CNI-PORTMAP-005"},
		{"map-for-ever", "CNI-PORTMAP-005"},
		{"map-twice", "CNI-PORTMAP-006"},
		{"map-nothing", "CNI-PORTMAP-007"},
		{"map-all", "CNI-PORTMAP-007"},
		{"map-15", "CNI-PORTMAP-008"},
		{"map-any-ip", "CNI-PORTMAP-009"},
		{"map-4", "CNI-PORTMAP-010"},
	}
}

// declarePortmap completes the target of a plugin for port mappings.
func declarePortmap(tgt *cnisuite.Target) {
	tgt.Kind, tgt.Config = cnisuite.Chained, `{"capabilities":{"portMappings":true}}`
	tgt.RuntimeConfig = `{"portMappings":[{"hostPort":18080,"containerPort":80,"protocol":"tcp"}]}`
}
