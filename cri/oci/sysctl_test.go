package oci_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// cniCommand is set for a CNI plugin. The test binary is also one, whose attachments have
// interfaces, unlike those of fakeCNI.
const cniCommand = "CNI_COMMAND"

// odd is the name of an interface with a dot, such as those of VLANs.
const odd = "eth0.7"

func plugin() error {
	switch os.Getenv(cniCommand) {
	case "ADD":
		if err := netns.Do(os.Getenv("CNI_NETNS"), makeLinks); err != nil {
			return err
		}
		fmt.Println(`{"cniVersion":"1.0.0","interfaces":[],"ips":[{"address":"192.0.2.7/24"}]}`)
	case "VERSION":
		fmt.Println(`{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}`)
	}
	return nil
}

func makeLinks() (err error) {
	c, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.Do(
		rtnl.AddBridge("eth0", 0, net.HardwareAddr{2, 0, 0, 0, 0, 1}, false),
		rtnl.AddBridge(odd, 0, net.HardwareAddr{2, 0, 0, 0, 0, 2}, false),
	)
}

// TestSysctlsOfInterfaces: the sysctls of the network's interfaces are set, whatever
// their names, and an interface that does not exist is named.
func TestSysctlsOfInterfaces(t *testing.T) {
	n := newNode(t)
	fake := n.dir + "/bin/fake"
	self, err := os.Executable()
	n.must(err)
	n.must(os.Remove(fake))
	n.must(os.Symlink(self, fake))
	sandbox, cfg := n.sandbox("links", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{
			"net.ipv4.conf.all.log_martians":             "1",
			"net.ipv4.conf.eth0.log_martians":            "1",
			"net.ipv4.conf.eth0/7.tag":                   "5", // points between, as a kubelet sends it
			"net/ipv4/neigh/" + odd + "/retrans_time_ms": "2000",
		}
	})
	id := n.create(sandbox, cfg, "c", nil, "sleep", "forever")
	n.startContainer(id)
	out, _ := n.exec(
		id, "/podtool", "cat", "/proc/sys/net/ipv4/conf/all/log_martians", "/proc/sys/net/ipv4/conf/eth0/log_martians",
		"/proc/sys/net/ipv4/conf/"+odd+"/tag", "/proc/sys/net/ipv4/neigh/"+odd+"/retrans_time_ms",
	)
	if want := "1\n1\n5\n2000\n"; out != want {
		t.Errorf("the sysctls are %q, want %q", out, want)
	}
	n.removeSandbox(sandbox)
	for _, name := range []string{"net.ipv4.conf.eth1.tag", "net.//.//.kernel.pid_max"} {
		wrong := n.sandboxConfig("wrong", func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{name: "1"} })
		_, err = n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: wrong})
		if err == nil {
			t.Errorf("%q is set", name)
		}
		n.blamed(fmt.Sprintf("%q", name), err, wrong)
	}
}
