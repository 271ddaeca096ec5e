package main

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestRulesetIsRestored: people save a machine's rules with nft(8) and load them
// again. What it prints of ours must be what it is.
func TestRulesetIsRestored(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	ctx, ns, data := context.Background(), netnstest.New(t), t.TempDir()
	t.Cleanup(func() {
		if err := bridge.Teardown(ctx, bridge.Config{Bridge: "restore0"}); err != nil {
			t.Error(err)
		}
		if err := portmap.Teardown(ctx, portmap.Config{NFTTable: "restore-ports"}); err != nil {
			t.Error(err)
		}
	})
	set := cni.Set{"bridge": bridge.Plugin(), "host-local": hostlocal.Plugin(), "portmap": portmap.Plugin()}
	var result json.RawMessage
	call := func(command, plugin, config string) {
		t.Helper()
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": ns}
		stdin := `{"cniVersion":"1.1.0","name":"restore","type":"` + plugin + `",` + config
		if result != nil {
			stdin += `,"prevResult":` + string(result)
		}
		out, err := set.Invoke(ctx, plugin, env, []byte(stdin+"}"))
		if err != nil {
			t.Fatalf("%s of %s: %v", command, plugin, err)
		}
		if command == cni.CmdAdd {
			result = out
		}
	}
	bridged := `"bridge":"restore0","isDefaultGateway":true,"ipMasq":true,"macspoofchk":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"` +
		data + `","ranges":[[{"subnet":"10.66.0.0/24"}],[{"subnet":"fd66::/64"}]]}`
	mapped := `"nftTable":"restore-ports","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},` +
		`{"hostPort":8081,"containerPort":80,"protocol":"udp","hostIP":"127.0.0.1"}]}`
	call(cni.CmdAdd, "bridge", bridged)
	call(cni.CmdAdd, "portmap", mapped)

	saved := netnstest.Run(t, "", "nft", "list", "ruleset")
	restore := exec.Command("nft", "-f", "-")
	restore.Stdin = strings.NewReader("flush ruleset\n" + saved)
	if out, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("nft cannot read what it printed: %v\n%s\n%s", err, out, saved)
	}
	call(cni.CmdCheck, "portmap", mapped)
	call(cni.CmdCheck, "bridge", bridged)
	call(cni.CmdDel, "portmap", mapped)
	call(cni.CmdDel, "bridge", bridged)
	if left := netnstest.Run(t, "", "nft", "list", "ruleset"); strings.Contains(left, "restore/c/eth0") {
		t.Errorf("DEL after a restore left elements:\n%s", left)
	}
	if left, _ := filepath.Glob(filepath.Join(data, "restore", "*.*.*.*")); len(left) != 0 {
		t.Errorf("DEL left reservations: %v", left)
	}
}
