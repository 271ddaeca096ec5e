package node

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestAddDelegates looks at the order in which plugins are found.
func TestAddDelegates(t *testing.T) {
	bin := t.TempDir() // stands for the one that holds the program cni
	if err := os.WriteFile(filepath.Join(bin, "cni"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	named := []string{"/first", "/second"}
	root := t.TempDir()
	own := filepath.Join(root, "cni", "bin")
	for _, c := range []struct {
		cfg  RuntimeConfig
		want []string
	}{
		{RuntimeConfig{Root: root, CNIConfDir: "/conf"}, []string{"/first", "/second", own}},
		{RuntimeConfig{Root: root, chainType: "mine"}, []string{"/first", own, "/second"}},
	} {
		n := cniruntime.Config{BinDirs: slices.Clone(named)}
		if err := addDelegates(&n, &c.cfg); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, n.BinDirs); diff != "" {
			t.Error(diff)
		}
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if _, err := exec.LookPath(filepath.Join(own, name)); err != nil {
			t.Error(err)
		}
	}
}

// foreignNetwork opens a network of one plugin, a script.
func foreignNetwork(t *testing.T, conf, script string, change func(*RuntimeConfig)) *cniruntime.Network {
	t.Helper()
	bin, net := t.TempDir(), t.TempDir()
	for file, text := range map[string]string{bin + "/plugin": script, bin + "/cni": "#!/bin/sh\n", net + "/10.conflist": conf} {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	r := &Runtime{cfg: RuntimeConfig{Root: t.TempDir(), CNIConfDir: net, CNIBinDirs: []string{bin}, Logger: slog.New(slog.DiscardHandler)}}
	change(&r.cfg)
	if err := r.openNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.closeNetwork(); err != nil {
			t.Error(err)
		}
	})
	return r.network
}

const foreignConf = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"plugin"}]}`

// TestImportCache: what another runtime has left attached is detached with what is of
// no sandbox, by the configuration that it was attached with.
func TestImportCache(t *testing.T) {
	cache, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	left, err := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": "c-1", "ifName": "eth0", "networkName": "old", "netns": "/gone",
		"config": []byte(strings.Replace(foreignConf, `"n"`, `"old"`, 1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(cache+"/old-c-1-eth0", left, 0o600), os.WriteFile(cache+"/damaged", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	n := foreignNetwork(t, foreignConf, "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >>"+log+"; grep -o '\"name\":\"[a-z]*\"' >>"+log+"\n",
		func(cfg *RuntimeConfig) { cfg.CNIImportCache = cache })
	if err := n.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if seen, err := os.ReadFile(log); err != nil || string(seen) != "DEL c-1 eth0\n\"name\":\"old\"\n" {
		t.Errorf("the plugin saw %q, %v", seen, err)
	}
}

// TestPluginTimeouts: a plugin has the time of its type, and without one that of all.
func TestPluginTimeouts(t *testing.T) {
	const hangs = "#!/bin/sh\n[ $CNI_COMMAND = ADD ] && exec sleep 1000\nexit 0\n"
	for name, change := range map[string]func(*RuntimeConfig){
		"of all": func(cfg *RuntimeConfig) { cfg.CNITimeout = time.Second },
		"its own": func(cfg *RuntimeConfig) {
			cfg.CNITimeout, cfg.CNITimeouts = time.Hour, map[string]time.Duration{"plugin": time.Second}
		},
	} {
		n := foreignNetwork(t, foreignConf, hangs, change)
		start := time.Now()
		_, err := n.Attach(t.Context(), cniruntime.Attachment{ContainerID: "c", IfName: "eth0", NetNS: t.TempDir()})
		if took := time.Since(start); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "did not end in time") || took > 30*time.Second {
			t.Errorf("%s: after %s: %v", name, took, err)
		}
	}
}

// TestNetworkInWords: a bridge is told of only where there is one.
func TestNetworkInWords(t *testing.T) {
	network := Network{Bridge: "nk-1", Subnet: "10.1.2.0/24"}
	for want, cfg := range map[string]RuntimeConfig{
		"bridge nk-1, Pods in 10.1.2.0/24":                 {Network: network},
		"network nk-1 of plugin mine, Pods in 10.1.2.0/24": {Network: network, chainType: "mine"},
		"network nk-1 of plugin mine":                      {Network: network, chainType: "mine", chainBare: true},
	} {
		if got := cfg.network(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
