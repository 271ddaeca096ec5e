package bridge

import (
	"encoding/json"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
)

// FuzzConfig: no configuration makes the plugin panic, and what it accepts are VLANs
// that the kernel knows.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"bridge":"br0","mtu":1400,"isDefaultGateway":true,"ipMasq":true,"ipMasqBackend":"iptables"}`,
		`{"vlan":5,"vlanTrunk":[{"minID":100,"maxID":200},{"id":7}],"preserveDefaultVlan":true}`,
		`{"vlanTrunk":[{"minID":1}]}`, `{"vlanTrunk":[{"maxID":4095,"minID":-1}]}`, `{"vlanTrunk":[{}]}`, `{"vlan":-1}`, `{"bridge":"a name that is too long"}`,
		`{"disableContainerInterface":true,"ipam":{"type":"x"}}`, `{"ipam":7}`, `{"dns":{"nameservers":["x"]}}`,
	} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "02:00:00:00:00:01")
	}
	f.Add([]byte(`{}`), "ff:ff:ff:ff:ff:ff")
	f.Fuzz(func(t *testing.T, raw []byte, mac string) {
		c := &Config{}
		if json.Unmarshal(raw, c) != nil {
			return
		}
		if c.MAC = mac; c.complete() != nil {
			return
		}
		if addr, err := c.mac(); err == nil && addr != nil && len(addr) != 6 {
			t.Errorf("mac %q is taken as %v", mac, addr)
		}
		vlans, err := c.portVLANs()
		if err != nil {
			return
		}
		for _, v := range vlans {
			if v.First < 1 || v.First > v.Last || v.Last > maxVLAN {
				t.Errorf("%s is taken as VLANs %+v", raw, vlans)
			}
		}
	})
}

// FuzzPrevResult: no result makes CHECK panic.
func FuzzPrevResult(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0"}`,
		`{"cniVersion":"1.1.0","interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1","interface":1}],"routes":[{"dst":"0.0.0.0/0"}]}`,
		`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"fd00::2/64","interface":0},{"address":"10.0.0.2/32","interface":-1}]}`,
		`{"cniVersion":"1.1.0","interfaces":[null],"ips":[null]}`, `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		prev, err := cni.DecodeResult(raw, "")
		if err != nil {
			return
		}
		r := &cni.Request{Command: cni.CmdCheck, Network: "n", Attachment: cni.Attachment{ContainerID: "c", IfName: "eth0"}, PrevResult: prev}
		_, _ = expect(r, &Config{IsGateway: true})
	})
}
