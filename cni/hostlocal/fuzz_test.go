package hostlocal_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
)

// FuzzConfig: any ipam object is refused with a code for it, or answered with
// addresses of its subnets.
func FuzzConfig(f *testing.F) {
	f.Add(`{"subnet":"10.0.0.0/24","exclude":["10.0.0.3-10.0.0.9"],"reuseDelay":"1s"}`, `["10.0.0.10"]`)
	f.Add(`{"ranges":[[{"subnet":"::/0","gateway":"fe80::1"}],[{"subnet":"255.255.255.255/32"}]]}`, `[]`)
	f.Add(`{"ranges":[[{"subnet":"0.0.0.0/0","rangeEnd":"0.0.0.1","exclude":["0.0.0.0/1"]}]]}`, `["0.0.0.0/0"]`)
	f.Add(`{"ranges":[[{"subnet":"ffff::/16","rangeStart":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}]],"routes":[{"dst":"::/0","scope":1}]}`, `null`)
	f.Fuzz(func(t *testing.T, ipam, ips string) {
		p := newPool(t, `[]`)
		p.ipam = map[string]any{}
		if json.Unmarshal([]byte(ipam), &p.ipam) != nil || p.ipam == nil || !json.Valid([]byte(ips)) {
			return
		}
		p.ipam["dataDir"] = p.dir
		delete(p.ipam, "resolvConf") // which would read any file
		p.more["runtimeConfig"] = map[string]any{"ips": json.RawMessage(ips)}
		var err error
		for range 2 {
			_, err = p.call("ADD", "x")
			switch code := cni.CodeOf(err); {
			case err == nil, code == cni.CodeConfig, code == cni.CodeUnsupportedField, code == cni.CodeDecode, code == cni.CodeExhausted:
			default:
				t.Fatalf("code %d: %v", code, err)
			}
		}
		if err == nil {
			p.del("x")
		}
		if got := p.reserved(); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

// FuzzReservation: whatever the file of an address holds, nobody else gets the
// address while somebody may have it, and GC of everything frees it.
func FuzzReservation(f *testing.F) {
	for _, seed := range []string{"", "old", "x\r\neth0", "\x00\x00", "a\nb\nc", strings.Repeat("y", 5000), "\xff", " \r\n eth0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		p := newPool(t, pool3)
		p.write("10.0.0.2", content)
		owner, err := hostlocal.ParseOwner(content)
		got := p.add("new")
		if err == nil && owner.ContainerID != "new" && strings.HasPrefix(got, "10.0.0.2/") {
			t.Errorf("the address of %q was given away", owner)
		}
		if _, err := p.status(); err != nil {
			t.Error(err)
		}
		p.list("list")
		p.more["cni.dev/valid-attachments"] = []cni.Attachment{}
		if _, err := p.call("GC", ""); err != nil {
			t.Error(err)
		}
		if got := p.reserved(); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

// FuzzIndex: an index of any content, its checksums right or wrong, makes no
// address belong to two.
func FuzzIndex(f *testing.F) {
	p := newPool(f, pool3)
	p.add("a")
	p.add("b")
	index, err := os.ReadFile(p.path(".index"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(100), []byte{1, 2, 3})
	f.Add(uint16(0), []byte{})
	f.Add(uint16(4096+8), []byte{255, 255})
	f.Add(uint16(59), []byte{180}) // three billion owners
	f.Fuzz(func(t *testing.T, at uint16, with []byte) {
		p := newPool(t, pool3)
		p.add("a")
		p.add("b")
		own, err := os.ReadFile(p.path(".index"))
		if err != nil || len(own) != len(index) {
			t.Fatal(err, len(own))
		}
		copy(own[min(int(at), len(own)):], with)
		hostlocal.Reseal(own)
		file, err := os.OpenFile(p.path(".index"), os.O_WRONLY, 0)
		if err == nil {
			_, err = file.Write(own)
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := p.add("c"); got == "10.0.0.2/24 via 10.0.0.1" || got == "10.0.0.3/24 via 10.0.0.1" {
			t.Errorf("c got %s", got)
		}
		p.status()
		p.del("a")
		p.list("list")
	})
}

// FuzzHints are the files that only hint: the last address, resolv.conf, and the
// exclusions' syntax.
func FuzzHints(f *testing.F) {
	f.Add("10.0.0.4", "nameserver 1.1.1.1", "10.0.0.1-10.0.0.2")
	f.Add("::", "search\n# x\n;", "-")
	f.Add("255.255.255.255", "options a b", "::/0")
	f.Fuzz(func(t *testing.T, last, resolv, span string) {
		p := newPool(t, pool3)
		p.write("last_reserved_ip.0", last)
		if got := p.add("x"); !strings.HasPrefix(got, "10.0.0.") {
			t.Errorf("x got %s", got)
		}
		hostlocal.ParseResolvConf(resolv)
		if s, err := hostlocal.ParseSpan(span); err == nil && s.String() == "" {
			t.Error("a span without addresses")
		}
	})
}
