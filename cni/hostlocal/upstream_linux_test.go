package hostlocal_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// upstream calls upstream's program with the same documents.
func (p *pool) upstream(command, id string) (string, error) {
	p.t.Helper()
	stdin, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "n", "type": "x", "ipam": p.ipam, "prevResult": map[string]any{"cniVersion": "1.0.0"}})
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), "/usr/lib/cni/host-local")
	if other := os.Getenv("UPSTREAM_HOST_LOCAL"); other != "" {
		cmd = exec.CommandContext(p.t.Context(), other)
	}
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=/none", "CNI_PATH=/usr/lib/cni"}
	cmd.Stdin = strings.NewReader(string(stdin))
	out, err := cmd.Output()
	return string(out), err
}

// TestTakingTurns lets the two programs do each other's second half.
func TestTakingTurns(t *testing.T) {
	testenv.Require(t, testenv.CNIPlugins)
	p := newPool(t, dual)
	for i := range 10 {
		ours, theirs := fmt.Sprint("ours", i), fmt.Sprint("theirs", i)
		got := p.add(ours)
		out, err := p.upstream("ADD", theirs)
		if err != nil {
			t.Fatalf("%v, %s", err, out)
		}
		if want := fmt.Sprintf("10.0.0.%d/24 via 10.0.0.1, fd00::%x/64 via fd00::1", 2*i+2, 2*i+2); got != want {
			t.Errorf("ours has %s, want %s", got, want)
		}
		if want := fmt.Sprintf("10.0.0.%d/24", 2*i+3); !strings.Contains(out, want) {
			t.Errorf("theirs has %s, want %s", out, want)
		}
		if out, err := p.upstream("CHECK", ours); err != nil {
			t.Errorf("their CHECK of ours: %v, %s", err, out)
		}
		if _, err := p.call("CHECK", theirs); err != nil {
			t.Errorf("our CHECK of theirs: %v", err)
		}
		if out, err := p.upstream("ADD", ours); err == nil {
			t.Errorf("they added ours again: %s", out)
		}
	}
	for i := range 9 {
		p.del(fmt.Sprint("theirs", i))
		if out, err := p.upstream("DEL", fmt.Sprint("ours", i)); err != nil {
			t.Errorf("their DEL of ours: %v, %s", err, out)
		}
	}
	if got := p.reserved(); got != "10.0.0.20 10.0.0.21 fd00::14 fd00::15" {
		t.Errorf("left: %s", got)
	}
	p.more["cni.dev/valid-attachments"] = []cni.Attachment{{ContainerID: "theirs9", IfName: "eth0"}}
	if _, err := p.call("GC", ""); err != nil {
		t.Error(err)
	}
	if got := p.reserved(); got != "10.0.0.21 fd00::15" {
		t.Errorf("after GC: %s", got)
	}
}
