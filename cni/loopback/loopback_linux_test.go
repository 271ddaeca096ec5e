package loopback_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestLoopback(t *testing.T) {
	testenv.Require(t, testenv.Root)
	ns := netnstest.New(t)
	netnstest.Run(t, ns, "ip", "link", "set", "lo", "down")
	call := func(command, prev string) ([]byte, error) {
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "lo", "CNI_NETNS": ns}
		return cni.Invoke(context.Background(), loopback.Plugin(), env, fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"lo"%s}`, prev))
	}
	out, err := call("ADD", "")
	if err != nil || !strings.Contains(string(out), `"127.0.0.1/8"`) {
		t.Fatalf("ADD: %s, %v", out, err)
	}
	if seen := netnstest.Dial(t, ns, "127.0.0.1", netnstest.Listen(t, ns)); seen != "127.0.0.1" {
		t.Errorf("the server saw %s", seen)
	}
	prev := `,"prevResult":` + string(out)
	if _, err := call("CHECK", prev); err != nil {
		t.Error(err)
	}
	netnstest.Run(t, ns, "ip", "link", "set", "lo", "down")
	if _, err := call("CHECK", prev); cni.CodeOf(err) != cni.CodeNotAsExpected {
		t.Errorf("CHECK with lo down: %v", err)
	}
	env := map[string]string{"CNI_CONTAINERID": "c", "CNI_IFNAME": "lo", "CNI_NETNS": ns}
	set := cni.Set{"loopback": loopback.Plugin()}
	if err := set.Repair(t.Context(), "loopback", env, fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"lo"%s}`, prev)); err != nil {
		t.Errorf("Repair: %v", err)
	}
	if _, err := call("CHECK", prev); err != nil {
		t.Errorf("CHECK after Repair: %v", err)
	}
	if !strings.Contains(string(out), `"::1/128"`) {
		t.Errorf("the result lacks ::1: %s", out)
	}
	chained := `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"` + ns + `"}]}`
	if out, err := call("ADD", chained); err != nil || !strings.Contains(string(out), `"eth0"`) || strings.Contains(string(out), `"lo"`) {
		t.Errorf("ADD with a prevResult: %s, %v", out, err)
	}
	netnstest.Run(t, ns, "ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	if _, err := call("ADD", ""); cni.CodeOf(err) != cni.CodeExists {
		t.Errorf("ADD with a foreign address on lo: %v", err)
	}
	if out, err := call("DEL", prev); err != nil || len(out) > 0 {
		t.Errorf("DEL: %s, %v", out, err)
	}
}
