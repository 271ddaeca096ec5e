package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

const orderBridge = "border0"

func orderConfig(t *testing.T) []byte {
	config, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "order", "type": "bridge", "bridge": orderBridge, "macspoofchk": true})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// orderCall calls the plugin with a configuration that needs no IPAM.
func orderCall(t *testing.T, p *cni.Plugin, command, id, ns string) {
	t.Helper()
	env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": id, "CNI_IFNAME": "eth0", "CNI_NETNS": ns}
	if out, err := cni.Invoke(t.Context(), p, env, orderConfig(t)); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

func needOrder(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Cleanup(func() {
		if err := Teardown(context.Background(), Config{Bridge: orderBridge}); err != nil {
			t.Error(err)
		}
	})
}

// TestNoRemovalIsLost: a removal that begins at once finds what was handed to it,
// however late the port was disabled.
func TestNoRemovalIsLost(t *testing.T) {
	needOrder(t)
	ns := netnstest.New(t)
	stays := newResident()
	stays.linger = 0
	plugin := newPlugin(&plugin{stays: stays})
	for i := range 40 {
		id := fmt.Sprintf("c%d", i)
		orderCall(t, plugin, "ADD", id, ns)
		orderCall(t, plugin, "DEL", id, ns)
		stays.under.Wait()
		if links := netnstest.Run(t, "", "ip", "-o", "link"); strings.Contains(links, leavingPrefix) {
			t.Fatalf("round %d left %s", i, links)
		}
	}
	if err := stays.close(); err != nil {
		t.Error(err)
	}
}

// TestThePortDiesBeforeItsRules: between the two a container could send what the
// rules were there to stop.
func TestThePortDiesBeforeItsRules(t *testing.T) {
	needOrder(t)
	ns, plugin := netnstest.New(t), Plugin()
	orderCall(t, plugin, "ADD", "a", ns)
	links, rules := watch(t, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK), watch(t, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	dead := make(chan bool)
	go func() {
		hears(rules, watched, 0) // waits until the rules go
		dead <- hears(links, leavingPrefix, unix.MSG_DONTWAIT)
	}()
	orderCall(t, plugin, "DEL", "a", ns)
	if !<-dead {
		t.Error("the rules went while the port was alive")
	}
}

// watch returns a socket that hears the changes that the group announces.
func watch(t *testing.T, protocol, group int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (group - 1)}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// hears reads until the words come, and reports whether they did.
func hears(fd int, words string, flags int) bool {
	b := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, b, flags)
		if err != nil {
			return false
		}
		if strings.Contains(string(b[:n]), words) {
			return true
		}
	}
}

// TestDelWithoutItsPortLeavesTheRules: a DEL that cannot tell whether the port is
// alive fails, and the container stays under the rules until the next one.
func TestDelWithoutItsPortLeavesTheRules(t *testing.T) {
	needOrder(t)
	stays := newResident()
	plugin := newPlugin(&plugin{stays: stays})
	orderCall(t, plugin, "ADD", "a", netnstest.New(t))
	ns, err := netns.CurrentID()
	if err != nil {
		t.Fatal(err)
	}
	h, _ := stays.hosts.Take(ns)
	if err := h.links.Close(); err != nil {
		t.Fatal(err)
	}
	stays.hosts.Put(ns, h)
	env := map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "eth0"}
	if _, err := cni.Invoke(t.Context(), plugin, env, orderConfig(t)); err == nil {
		t.Error("DEL did not reach the port and succeeds")
	}
	if set := netnstest.Run(t, "", "nft", "list", "set", "bridge", "cni-"+orderBridge, watched); !strings.Contains(set, "veth") {
		t.Errorf("the port is not watched any more: %s", set)
	}
	stays.hosts.Take(ns)
	orderCall(t, plugin, "DEL", "a", "")
	if err := stays.close(); err != nil {
		t.Error(err)
	}
}

// TestBridgeOfAKilledAdd: what an ADD left undone when it was killed right behind
// the making of the bridge is done by the next one. A bridge that somebody uses
// keeps its own ways.
func TestBridgeOfAKilledAdd(t *testing.T) {
	needOrder(t)
	links, err := rtnl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	const ra = "net/ipv6/conf/" + orderBridge + "/accept_ra"
	for _, inUse := range []bool{false, true} {
		if err := links.Do(rtnl.AddBridge(orderBridge, 0, newMAC(), false)); err != nil {
			t.Fatal(err)
		}
		want := "0"
		if inUse {
			netnstest.Run(t, "", "ip", "link", "set", orderBridge, "up")
			want = "1"
		}
		orderCall(t, Plugin(), "ADD", "a", netnstest.New(t))
		br, err := links.Link(orderBridge)
		if err != nil || !br.Up {
			t.Errorf("the bridge: %+v, %v", br, err)
		}
		if got, err := sysctl.Read(ra); err != nil || got != want {
			t.Errorf("in use %t: accept_ra is %s, want %s: %v", inUse, got, want, err)
		}
		orderCall(t, Plugin(), "DEL", "a", "")
		if err := Teardown(t.Context(), Config{Bridge: orderBridge}); err != nil {
			t.Error(err)
		}
	}
}
