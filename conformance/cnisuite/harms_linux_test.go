package cnisuite_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// harmful are the good plugin with a file, a line in a common file, and a table of
// the firewall for each attachment. Their CHECK sees none of that, and their DEL
// and GC take something of others along.
func harmful() map[string]func() int {
	eth0 := func(do func(netlink.Link) error) func(*exchange) {
		return func(x *exchange) {
			_ = netns.Do(x.env["CNI_NETNS"], func() error { // a GC has none
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return do(l)
			})
		}
	}
	all := map[string]func() int{}
	for name, harm := range map[string]func(*exchange){
		"harms-nothing":  func(*exchange) {},
		"harms-firewall": func(*exchange) { _ = nft.FlushAll() },
		"harms-shared": func(x *exchange) {
			if x.command() == "GC" {
				_ = nft.FlushAll()
			}
		},
		"harms-files": func(x *exchange) {
			files, _ := filepath.Glob(x.state("file-*"))
			for _, path := range files {
				_ = os.Remove(path)
			}
		},
		"harms-records": func(x *exchange) { _ = os.Truncate(x.state("records"), 0) },
		"harms-check":   func(x *exchange) { _ = os.WriteFile(x.state("gone"), nil, 0o600) },
		"harms-delegate": func(x *exchange) {
			for _, f := range x.valid() {
				cmd := exec.Command(filepath.Join(strings.Split(x.env["CNI_PATH"], ":")[0], "suite-ipam"))
				cmd.Env = []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=" + f.id, "CNI_IFNAME=" + f.ifName}
				_ = cmd.Run()
			}
		},
		"harms-mtu": eth0(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1280) }),
		"harms-address": eth0(func(l netlink.Link) error {
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			return netlink.AddrDel(l, &addrs[0])
		}),
	} {
		all[name] = raw(func(x *exchange) (string, int) { return x.harmful(harm) })
	}
	return all
}

func (x *exchange) harmful(harm func(*exchange)) (string, int) {
	sum := sha256.Sum256([]byte(x.network() + x.env["CNI_CONTAINERID"] + x.env["CNI_IFNAME"]))
	mine := fmt.Sprintf("%s %x\n", x.env["CNI_CONTAINERID"], sum)
	table := &nftables.Table{Name: fmt.Sprintf("of-%x", sum[:4]), Family: nftables.TableFamilyIPv4}
	file := x.state("file-" + x.env["CNI_CONTAINERID"] + x.env["CNI_IFNAME"])
	conn, err := nftables.New()
	if err != nil {
		return refuse(100, err.Error())
	}
	records, _ := os.ReadFile(x.state("records"))
	switch x.command() {
	case "ADD":
		_ = os.WriteFile(file, nil, 0o600)
		_ = os.WriteFile(x.state("records"), append(records, mine...), 0o600)
		conn.AddTable(table)
		conn.AddTable(&nftables.Table{Name: "shared", Family: nftables.TableFamilyIPv4})
		_ = conn.Flush()
	case "DEL":
		_ = os.Remove(file)
		_ = os.WriteFile(x.state("records"), bytes.ReplaceAll(records, []byte(mine), nil), 0o600)
		conn.DelTable(table)
		_ = conn.Flush()
		harm(x)
	case "GC":
		harm(x)
	case "CHECK":
		if _, err := os.Stat(x.state("gone")); err == nil {
			return refuse(103, "something has gone")
		}
		return "", 0
	}
	return x.good()
}

// harms are the rules that must catch them.
func harms() []fault {
	return []fault{
		{"harms-firewall", "CNI-GC-002"},
		{"harms-firewall", "CNI-GC-008"},
		{"harms-shared", "CNI-GC-009"},
		{"harms-firewall", "CNI-DEL-010"},
		{"harms-files", "CNI-DEL-010"},
		{"harms-records", "CNI-DEL-010"},
		{"harms-check", "CNI-DEL-010"},
		{"harms-mtu", "CNI-DEL-011"},
		{"harms-address", "CNI-DEL-011"},
		{"harms-delegate", "CNI-GC-002"},
	}
}
