package cnisuite_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// pool is an IPAM plugin with a file for each attachment, and one fault.
type pool struct {
	noLock, repeats, shares, absorbs, wide, again, next bool
	twice, hoards, needsNetNS                           bool
	onResult                                            func(result map[string]any)
	first                                               int    // address
	ignores                                             string // way of asking
	deaf                                                string // command that does nothing
	says                                                string // on stderr, when it does nothing
	code                                                int    // of STATUS
	slowly                                              bool   // it writes
}

func pools() map[string]func() int {
	all := map[string]func() int{}
	for name, p := range map[string]pool{
		"ipam-legal":       {},
		"ipam-interfaces":  {onResult: func(r map[string]any) { r["interfaces"] = []any{map[string]any{"name": "eth0"}} }},
		"ipam-index":       {onResult: func(r map[string]any) { r["ips"].([]any)[0].(map[string]any)["interface"] = 0 }},
		"ipam-races":       {noLock: true},
		"ipam-other":       {ignores: "args"},
		"ipam-shares":      {shares: true},
		"ipam-overflows":   {wide: true},
		"ipam-ready":       {deaf: "STATUS"},
		"ipam-code":        {code: 999},
		"ipam-keeps":       {deaf: "DEL"},
		"ipam-gateway":     {first: 1},
		"ipam-network":     {first: 0, next: true},
		"ipam-again":       {again: true},
		"ipam-twice":       {again: true, twice: true},
		"ipam-hoards":      {hoards: true},
		"ipam-needs-netns": {needsNetNS: true},
		"ipam-networks":    {absorbs: true},
		"ipam-blind":       {deaf: "CHECK"},
		"ipam-chatty":      {deaf: "CHECK", says: "all is well"},
		"ipam-no-gc":       {deaf: "GC"},
		"ipam-slow":        {slowly: true},
		"ipam-repeats":     {repeats: true},
	} {
		if p.first == 0 && !p.next {
			p.first = 2
		}
		all[name] = raw(p.answer)
	}
	all["static"] = raw(static)
	return all
}

func (p pool) answer(x *exchange) (string, int) {
	if x.command() == "VERSION" {
		return x.good()
	}
	dir := x.state("")
	if !p.noLock {
		lock, err := os.OpenFile(filepath.Join(filepath.Dir(dir), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return refuse(5, err.Error())
		}
		defer lock.Close()
		_ = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if x.command() == p.deaf {
		fmt.Fprint(os.Stderr, p.says)
		return "", 0
	}
	switch x.command() {
	case "ADD":
		return p.add(x)
	case "DEL":
		if p.needsNetNS && x.env["CNI_NETNS"] == "" {
			return "", 0
		}
		if p.absorbs {
			return "", p.release(filepath.Join(dir, "*,"+x.env["CNI_CONTAINERID"]+",*"))
		}
		return "", p.release(p.own(x))
	case "CHECK":
		if text, _ := os.ReadFile(p.own(x)); len(text) == 0 {
			return refuse(103, "the reservation is gone")
		}
	case "STATUS":
		if p.free(x) < 0 {
			return refuse(max(p.code, 50), "no address is free")
		}
	case "GC":
		faultyGC{}.sweep(x)
	}
	return "", 0
}

func (p pool) own(x *exchange) string {
	return x.state(file{x.network(), x.env["CNI_CONTAINERID"], x.env["CNI_IFNAME"]}.String())
}

func (p pool) release(pattern string) int {
	files, _ := filepath.Glob(pattern)
	for _, path := range files {
		_ = os.Remove(path)
	}
	return 0
}

// taken are the network's addresses that somebody has; what is half written is
// taken for ever.
func (p pool) taken(x *exchange) map[int]bool {
	files, _ := filepath.Glob(x.state(x.network() + ",*"))
	all := map[int]bool{}
	for _, path := range files {
		text, _ := os.ReadFile(path)
		number, _, _ := strings.Cut(string(text), " ")
		at, _ := strconv.Atoi(number)
		all[at] = true
	}
	return all
}

// free is an address, or -1.
func (p pool) free(x *exchange) int {
	size := 250
	if few, _ := x.config()["few"].(bool); few {
		size = 8
	}
	taken := p.taken(x)
	start := p.first
	if text, err := os.ReadFile(x.state("last-" + x.network())); err == nil && !p.repeats {
		start, _ = strconv.Atoi(string(text))
		start++
	}
	for i := range size {
		at := p.first + (start-p.first+i)%size
		if !taken[at] {
			return at
		}
	}
	if p.wide {
		return p.first
	}
	return -1
}

func (p pool) asked(x *exchange) int {
	var config struct {
		RuntimeConfig struct{ IPs []string }
		Args          struct{ CNI struct{ IPs []string } }
	}
	_ = json.Unmarshal(x.stdin, &config)
	ips := config.RuntimeConfig.IPs
	if p.ignores != "args" {
		ips = append(ips, config.Args.CNI.IPs...)
	}
	if _, ip, ok := strings.Cut(x.env["CNI_ARGS"], "IP="); ok {
		ips = append(ips, ip)
	}
	if len(ips) == 0 {
		return -1
	}
	address, _, _ := strings.Cut(ips[0], "/")
	at, _ := strconv.Atoi(strings.TrimPrefix(address, "10.9.0."))
	return at
}

func (p pool) add(x *exchange) (string, int) {
	if text, err := os.ReadFile(p.own(x)); err == nil && len(text) > 0 && !p.again {
		return refuse(102, "the attachment has an address")
	}
	at := p.free(x)
	if asked := p.asked(x); asked >= 0 {
		if at = asked; p.taken(x)[at] && !p.shares {
			return refuse(101, "the address is taken")
		}
	}
	if at < 0 {
		if p.hoards {
			_ = os.WriteFile(p.own(x), nil, 0o600)
		}
		return refuse(101, "no address is free")
	}
	if p.twice {
		_ = os.Rename(p.own(x), p.own(x)+",first") // there is none at first
	}
	if p.noLock {
		time.Sleep(20 * time.Millisecond)
	}
	if p.slowly { // its DEL does not know of this file
		_ = os.WriteFile(x.state(x.network()+",taken,"+strconv.Itoa(at)), []byte(strconv.Itoa(at)), 0o600)
		time.Sleep(20 * time.Millisecond)
		_ = os.Remove(x.state(x.network() + ",taken," + strconv.Itoa(at)))
	}
	_ = os.WriteFile(p.own(x), fmt.Appendf(nil, "%d %s", at, x.env["CNI_CONTAINERID"]), 0o600)
	_ = os.WriteFile(x.state("last-"+x.network()), []byte(strconv.Itoa(at)), 0o600)
	result := map[string]any{
		"cniVersion": x.config()["cniVersion"],
		"ips":        []any{map[string]any{"address": fmt.Sprintf("10.9.0.%d/24", at), "gateway": "10.9.0.1"}},
	}
	if p.onResult != nil {
		p.onResult(result)
	}
	text, _ := json.Marshal(result)
	return string(text), 0
}

// ipamFaults are the plugins that the rules on IPAM plugins must catch.
func ipamFaults() []fault {
	return []fault{
		{"ipam-interfaces", "CNI-IPAM-001"},
		{"ipam-index", "CNI-IPAM-001"},
		{"ipam-races", "CNI-IPAM-002"},
		{"ipam-constant", "CNI-IPAM-003"},
		{"ipam-other", "CNI-IPAM-004"},
		{"ipam-shares", "CNI-IPAM-005"},
		{"ipam-overflows", "CNI-IPAM-006"},
		{"ipam-ready", "CNI-IPAM-007"},
		{"ipam-code", "CNI-IPAM-007"},
		{"ipam-keeps", "CNI-IPAM-008"},
		{"ipam-slow", "CNI-IPAM-009"},
		{"ipam-script", "CNI-IPAM-010"},
		{"ipam-gateway", "CNI-IPAM-011"},
		{"ipam-network", "CNI-IPAM-011"},
		{"ipam-twice", "CNI-IPAM-012"},
		{"ipam-networks", "CNI-IPAM-013"},
		{"ipam-blind", "CNI-IPAM-014"},
		{"ipam-chatty", "CNI-IPAM-014"},
		{"ipam-repeats", "CNI-IPAM-015"},
		{"ipam-no-gc", "CNI-IPAM-016"},
		{"ipam-hoards", "CNI-IPAM-017"},
		{"ipam-again", "CNI-IPAM-018"},
		{"ipam-needs-netns", "CNI-IPAM-019"},
	}
}

// leakyScript is an IPAM plugin that is executed fast: rules call it hundreds of
// times. It knows nothing of who has an address, and DEL frees those only whose
// ADD came to its end.
const leakyScript = `#!/bin/sh
cd "$(dirname "$0")"
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.1.0"]}' ;;
ADD)
	for n in 2 3 4 5 6 7; do
		[ -e taken.$n ] && continue
		: >taken.$n
		sleep 0.01
		echo $n >"$CNI_CONTAINERID"
		echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.'$n'/24"}]}'
		exit 0
	done
	echo '{"cniVersion":"1.1.0","code":101,"msg":"no address is free"}'
	exit 1 ;;
DEL)
	[ -e "$CNI_CONTAINERID" ] && read -r n <"$CNI_CONTAINERID" && rm -f taken.$n "$CNI_CONTAINERID"
	exit 0 ;;
esac
`

// declareIPAM completes the target of an IPAM plugin.
func declareIPAM(t testing.TB, tgt *cnisuite.Target, name string) {
	script := leakyScript
	if name == "ipam-constant" {
		script = strings.Replace(script, "[ -e taken.$n ] && continue", "", 1)
	}
	if name == "ipam-script" || name == "ipam-constant" {
		tgt.Binary = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(tgt.Binary, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tgt.Kind, tgt.Config = cnisuite.IPAM, `{"state":"${DIR}"}`
	tgt.Exhaustible = `{"state":"${DIR}","few":true}`
	tgt.Requests = []string{"runtimeConfig", "args", "CNI_ARGS"}
}

// static is an IPAM plugin whose configuration holds the address, as upstream's of
// that name: all attachments have the same, or what they ask for.
func static(x *exchange) (string, int) {
	if x.command() != "ADD" {
		if x.command() == "VERSION" {
			return x.good()
		}
		return "", 0
	}
	return fmt.Sprintf(`{"cniVersion":%q,"ips":[{"address":"10.9.0.%d/24"}]}`, x.config()["cniVersion"], max(7, pool{}.asked(x))), 0
}

// TestStaticLegal runs the rules on it that want addresses to differ, too.
func TestStaticLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tgt := target(t, "static")
	declareIPAM(t, &tgt, "static")
	tgt.Exhaustible, tgt.Static = "", true
	cnisuite.Suite().Test(t, tgt, &conformance.Options{Only: []string{"CNI-IPAM-00[1-8]", "CNI-IPAM-01[1-9]", "CNI-ADD-027", "CNI-DEL-002"}})
}

// TestIPAMLegal runs the rules on a plugin that keeps files in a way of its own.
func TestIPAMLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tgt := target(t, "ipam-legal")
	declareIPAM(t, &tgt, "ipam-legal")
	legal(t, "CNI-IPAM-", tgt)
}
