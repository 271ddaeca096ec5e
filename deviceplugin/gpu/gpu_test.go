package gpu_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/deviceplugin/gpu"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// tree makes a machine of files; a value "-> x" makes a symbolic link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// mixed is a machine with two NVIDIA GPUs, one of them never opened yet, an AMD
// and an Intel one, and a server's own little display adapter.
func mixed(t *testing.T) string {
	pci := "sys/devices/pci0000:00/"
	return tree(t, map[string]string{
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-aaaa\nBus Location: \t 0000:01:00.0\nDevice Minor: \t 0\n",
		"proc/driver/nvidia/gpus/0000:02:00.0/information": "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-????????-????\nDevice Minor: \t 1\n",
		"sys/bus/pci/devices/0000:01:00.0/numa_node":       "1\n",
		"sys/bus/pci/devices/0000:02:00.0/numa_node":       "-1\n",
		"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": "",
		pci + "0000:03:00.0/vendor": "0x1002\n", pci + "0000:03:00.0/numa_node": "0\n",
		pci + "0000:03:00.0/drm/card1/dev": "", pci + "0000:03:00.0/drm/renderD128/dev": "",
		"sys/class/drm/card1/device": "-> ../../../devices/pci0000:00/0000:03:00.0",
		"dev/dri/card1":              "", "dev/dri/renderD128": "", "dev/kfd": "",
		pci + "0000:00:02.0/vendor": "0x8086\n", pci + "0000:00:02.0/numa_node": "-1\n",
		pci + "0000:00:02.0/drm/card0/dev": "",
		"sys/class/drm/card0/device":       "-> ../../../devices/pci0000:00/0000:00:02.0",
		"sys/class/drm/card0-DP-1/status":  "connected",
		"dev/dri/card0":                    "",
		pci + "0000:09:00.0/vendor":        "0x1a03\n",
		"sys/class/drm/card2/device":       "-> ../../../devices/pci0000:00/0000:09:00.0",
	})
}

// list returns the plugin's first list of devices.
func list(t *testing.T, p *deviceplugin.Plugin) []deviceplugin.Device {
	t.Helper()
	return <-watch(t, p)
}

func watch(t *testing.T, p *deviceplugin.Plugin) <-chan []deviceplugin.Device {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	lists, done := make(chan []deviceplugin.Device, 10), make(chan error, 1)
	go func() {
		done <- p.Watch(ctx, func(d []deviceplugin.Device) error { lists <- d; return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch ended with %v, want nil", err)
		}
	})
	return lists
}

func newPlugin(t *testing.T, c gpu.Config) *deviceplugin.Plugin {
	t.Helper()
	p, err := gpu.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDiscovery(t *testing.T) {
	p := newPlugin(t, gpu.Config{Root: mixed(t)})
	want := []deviceplugin.Device{
		{ID: "intel-0000:00:02.0"},
		{ID: "GPU-aaaa", NUMA: []int{1}},
		{ID: "nvidia-0000:02:00.0"},
		{ID: "amd-0000:03:00.0", NUMA: []int{0}},
	}
	if diff := cmp.Diff(want, list(t, p)); diff != "" {
		t.Error(diff)
	}
	p = newPlugin(t, gpu.Config{Root: mixed(t), Vendors: []string{gpu.AMD}})
	if got := list(t, p); len(got) != 1 || got[0].ID != "amd-0000:03:00.0" {
		t.Errorf("of AMD alone: %+v", got)
	}
}

func TestAllocate(t *testing.T) {
	root := mixed(t)
	node := func(path string) deviceplugin.Node {
		return deviceplugin.Node{HostPath: filepath.Join(root, path), ContainerPath: path, Permissions: "rw"}
	}
	p := newPlugin(t, gpu.Config{Root: root})
	got, err := p.Allocate(t.Context(), []string{"GPU-aaaa", "nvidia-0000:02:00.0"})
	want := &deviceplugin.Allocation{
		Envs:  map[string]string{"NODEKIT_GPU_IDS": "GPU-aaaa,nvidia-0000:02:00.0", "NVIDIA_VISIBLE_DEVICES": "GPU-aaaa,1"},
		Nodes: []deviceplugin.Node{node("/dev/nvidia0"), node("/dev/nvidiactl"), node("/dev/nvidia1")},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	got, err = p.Allocate(t.Context(), []string{"amd-0000:03:00.0"})
	want = &deviceplugin.Allocation{
		Envs:  map[string]string{"NODEKIT_GPU_IDS": "amd-0000:03:00.0"},
		Nodes: []deviceplugin.Node{node("/dev/dri/card1"), node("/dev/dri/renderD128"), node("/dev/kfd")},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// TestCDI reads the spec with CDI's own library and resolves what Allocate names.
func TestCDI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cdi")
	p := newPlugin(t, gpu.Config{Root: mixed(t), CDIDir: dir})
	a, err := p.Allocate(t.Context(), []string{"GPU-aaaa", "amd-0000:03:00.0"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"nodekit.dev/gpu=GPU-aaaa", "nodekit.dev/gpu=amd-0000:03:00.0"}; !cmp.Equal(a.CDI, want) || len(a.Nodes) > 0 {
		t.Fatalf("CDI %q and nodes %v, want %q and none", a.CDI, a.Nodes, want)
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range a.CDI {
		d := cache.GetDevice(name)
		if d == nil {
			spec, _ := os.ReadFile(filepath.Join(dir, "nodekit.dev-gpu.json"))
			t.Fatalf("CDI does not know %q: %v\n%s", name, cache.GetErrors(), spec)
		}
		if raw, _ := json.Marshal(d.ContainerEdits); !strings.Contains(string(raw), "hostPath") {
			t.Errorf("%q edits %s, want device nodes", name, raw)
		}
	}
}

func TestSimulated(t *testing.T) {
	testenv.Require(t, testenv.Root)
	state := t.TempDir()
	config := gpu.Config{Root: t.TempDir(), Simulate: 2, StateDir: state}
	p := newPlugin(t, config)
	lists := watch(t, p)
	want := []deviceplugin.Device{{ID: "sim-0"}, {ID: "sim-1"}}
	if diff := cmp.Diff(want, <-lists); diff != "" {
		t.Fatal(diff)
	}
	a, err := p.Allocate(t.Context(), []string{"sim-1"})
	if err != nil || len(a.Nodes) != 1 || a.Nodes[0].ContainerPath != "/dev/nodekit-gpu1" {
		t.Fatalf("allocation %+v, %v", a, err)
	}
	null := a.Nodes[0].HostPath
	if err := os.WriteFile(null, []byte("into the void"), 0); err != nil {
		t.Errorf("writing to the device: %v", err)
	}
	if got, err := os.ReadFile(null); err != nil || len(got) > 0 {
		t.Errorf("reading from the device gave %q, %v, want nothing", got, err)
	}

	if err := os.Remove(null); err != nil {
		t.Fatal(err)
	}
	want[1].Unhealthy = true
	expect(t, lists, want)
	newPlugin(t, config) // what a restart does
	want[1].Unhealthy = false
	expect(t, lists, want)
}

func expect(t *testing.T, lists <-chan []deviceplugin.Device, want []deviceplugin.Device) {
	t.Helper()
	timeout := time.After(5 * time.Second) // half the period of the safety net
	for {
		select {
		case got := <-lists:
			if cmp.Equal(got, want) {
				return
			}
		case <-timeout:
			t.Fatalf("no list %+v within 5 s", want)
		}
	}
}

func TestNoGPU(t *testing.T) {
	_, err := gpu.New(gpu.Config{Root: t.TempDir()})
	if !errors.Is(err, deviceplugin.ErrNotFound) || !strings.Contains(err.Error(), "simulate") {
		t.Errorf("got %v, want ErrNotFound that names simulate", err)
	}
}

func TestPreferKeepsTogether(t *testing.T) {
	files := map[string]string{}
	for i, numa := range []string{"0", "1", "0", "1", "1"} {
		pci := "0000:0" + string(rune('1'+i)) + ":00.0"
		files["proc/driver/nvidia/gpus/"+pci+"/information"] = "GPU UUID: g" + string(rune('0'+i)) + "\nDevice Minor: 0\n"
		files["sys/bus/pci/devices/"+pci+"/numa_node"] = numa
	}
	p := newPlugin(t, gpu.Config{Root: tree(t, files)})
	all := []string{"g0", "g1", "g2", "g3", "g4"}
	for name, c := range map[string]struct {
		question deviceplugin.Preference
		want     []string
	}{
		"best fit":          {deviceplugin.Preference{Available: all, Count: 2}, []string{"g0", "g2"}},
		"only one has room": {deviceplugin.Preference{Available: all, Count: 3}, []string{"g1", "g3", "g4"}},
		"near what it has":  {deviceplugin.Preference{Available: all, Must: []string{"g3"}, Count: 2}, []string{"g3", "g1"}},
		"all":               {deviceplugin.Preference{Available: all, Count: 5}, []string{"g1", "g3", "g4", "g0", "g2"}},
	} {
		if got, err := p.Prefer(t.Context(), c.question); err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestLoadConfig(t *testing.T) {
	for name, c := range map[string]struct{ content, wrong string }{
		"good":           {"resource: example.com/gpu\nsimulate: 4\nstateDir: /x\n", ""},
		"unknown key":    {"resources: example.com/gpu\n", "resources"},
		"bad resource":   {"resource: gpu\n", "domain"},
		"no state":       {"simulate: 1\n", "stateDir"},
		"unknown vendor": {"vendors: [matrox]\n", "matrox"},
		"not yaml":       {"{", "not valid YAML: line 1"},
		"no mapping":     {"hello\n", `it is a string: want a mapping with keys of ["cdiDir" "resource" "simulate" "stateDir" "vendors"]`},
		"wrong type":     {"simulate: many\n", `key "simulate" is a string: want a whole number`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gpu.yaml")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := gpu.LoadConfig(path)
			if c.wrong == "" {
				if err != nil || got.Resource != "example.com/gpu" || got.Simulate != 4 {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.wrong) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want ErrInvalid that names %q and the file", err, c.wrong)
			}
		})
	}
}
