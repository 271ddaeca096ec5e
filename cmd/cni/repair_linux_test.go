package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestWatchedPodGetsItsRulesBack takes the rules and the gateway's address from
// under a container that is watched, as an administrator may by accident.
func TestWatchedPodGetsItsRulesBack(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"mend","plugins":[{"type":"bridge","bridge":"mend0","isDefaultGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.67.0.0/24"}]]}}]}`, dir)
	if err := os.WriteFile(filepath.Join(dir, "net.d", "1.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bridge.Teardown(context.Background(), bridge.Config{Bridge: "mend0"}); err != nil {
			t.Error(err)
		}
	})
	seen := &steps{}
	n, err := runtime.Open(runtime.Config{
		ConfDir: filepath.Join(dir, "net.d"), StateDir: filepath.Join(dir, "state"), Observe: &call.Observer{Done: seen.observe},
		Builtin: map[string]*cni.Plugin{"bridge": bridge.Plugin(), "host-local": hostlocal.Plugin()},
		Logger:  slog.New(slog.NewTextHandler(seen, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	pod := runtime.Attachment{ContainerID: "c1", IfName: "eth0", NetNS: netnstest.New(t)}
	if _, err := n.Attach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	host := func() string {
		return netnstest.Run(t, "", "nft", "list", "ruleset") + netnstest.Run(t, "", "ip", "-o", "-4", "address", "show", "mend0")
	}
	whole := host()
	ctx, stop := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { n.Watch(ctx, 20*time.Millisecond) })
	defer watch.Wait()
	defer stop()
	netnstest.Run(t, "", "nft", "flush", "ruleset")
	netnstest.Run(t, "", "ip", "address", "flush", "dev", "mend0")
	for deadline := time.Now().Add(10 * time.Second); host() != whole; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the host has\n%s, and had\n%s\n%s", host(), whole, seen)
		}
	}
	stop()
	watch.Wait()
	for _, want := range []string{"bridge REPAIR <nil>", "repaired an attachment"} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("neither log nor observer has %q: %s", want, seen)
		}
	}
	if err := n.Detach(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

// steps is what the observer and the log were told.
type steps struct{ syncbuf.Buffer }

func (s *steps) observe(_ context.Context, c call.Call) {
	_, _ = fmt.Fprintln(s, c.Plugin, c.Method, c.Err)
}
