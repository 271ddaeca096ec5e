package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// gpu is one GPU, real or simulated.
type gpu struct {
	id      string // stable across restarts and reboots
	vendor  string
	model   string // empty if unknown
	pci     string // empty for a simulated one
	numa    int    // -1 if unknown
	visible string // its name in NVIDIA_VISIBLE_DEVICES
	nodes   []deviceplugin.Node
	shared  []deviceplugin.Node // of the driver: added for every GPU, if they exist
}

// healthy reports whether all device nodes of the GPU exist.
func (g *gpu) healthy() bool {
	return !slices.ContainsFunc(g.nodes, func(n deviceplugin.Node) bool { return !exists(n.HostPath) })
}

// allNodes returns what a container needs to use the GPU.
func (g *gpu) allNodes() []deviceplugin.Node {
	out := slices.Clone(g.nodes)
	for _, n := range g.shared {
		if exists(n.HostPath) { // nvidia-uvm appears at the first use of CUDA
			out = append(out, n)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Where the NVIDIA driver and the kernel list GPUs.
const (
	nvidiaDir = "/proc/driver/nvidia/gpus"
	drmDir    = "/sys/class/drm"
)

// machine reads a tree of /proc, /sys and /dev.
type machine struct {
	root string
}

// discover returns the machine's GPUs of the given vendors, ordered by PCI address.
func discover(root string, vendors []string) ([]gpu, error) {
	m := &machine{root: root}
	var out []gpu
	if slices.Contains(vendors, NVIDIA) {
		found, err := m.nvidia()
		if err != nil {
			return nil, fmt.Errorf("looking for NVIDIA GPUs: %w", err)
		}
		out = append(out, found...)
	}
	found, err := m.drm(vendors)
	if err != nil {
		return nil, fmt.Errorf("looking for AMD and Intel GPUs: %w", err)
	}
	out = append(out, found...)
	slices.SortStableFunc(out, func(a, b gpu) int { return strings.Compare(a.pci, b.pci) })
	return out, nil
}

// nvidia reads what the NVIDIA driver exposes in /proc: one directory per GPU, named by
// its PCI address, with a file of "Key: value" lines.
func (m *machine) nvidia() ([]gpu, error) {
	addresses, err := m.list(nvidiaDir)
	if err != nil {
		return nil, err
	}
	var out []gpu
	for _, pci := range addresses {
		raw, err := os.ReadFile(m.path(nvidiaDir + "/" + pci + "/information"))
		if err != nil {
			return nil, err
		}
		info := keyValues(string(raw))
		minor, err := strconv.Atoi(info["Device Minor"])
		if err != nil {
			return nil, fmt.Errorf("GPU %s: device minor %q: %w", pci, info["Device Minor"], err)
		}
		g := gpu{
			id: info["GPU UUID"], vendor: NVIDIA, model: info["Model"], pci: pci,
			numa: m.numa("/sys/bus/pci/devices/" + pci), visible: info["GPU UUID"],
			nodes: []deviceplugin.Node{m.node(fmt.Sprintf("/dev/nvidia%d", minor))},
		}
		if g.id == "" || strings.Contains(g.id, "?") { // the driver fills it in when the GPU is first opened
			g.id, g.visible = "nvidia-"+pci, strconv.Itoa(minor)
		}
		for _, name := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"} {
			g.shared = append(g.shared, m.node("/dev/"+name))
		}
		out = append(out, g)
	}
	return out, nil
}

var card = regexp.MustCompile(`^card[0-9]+$`)

// drm reads the graphics cards of the in-kernel drivers.
func (m *machine) drm(vendors []string) ([]gpu, error) {
	names, err := m.list(drmDir)
	if err != nil {
		return nil, err
	}
	byID := map[string]string{"0x1002": AMD, "0x8086": Intel} // PCI vendor ids
	var out []gpu
	for _, name := range names {
		if !card.MatchString(name) {
			continue // card0-DP-1, renderD128, version
		}
		device := filepath.Join(drmDir, name, "device")
		vendor := byID[m.read(device+"/vendor")]
		if !slices.Contains(vendors, vendor) {
			continue
		}
		target, err := os.Readlink(m.path(device))
		if err != nil {
			return nil, err
		}
		pci := filepath.Base(target)
		g := gpu{id: vendor + "-" + pci, vendor: vendor, pci: pci, numa: m.numa(device)}
		nodes, err := m.list(device + "/drm")
		if err != nil {
			return nil, err
		}
		for _, n := range nodes { // this card, its render node, an old control node
			if card.MatchString(n) || strings.HasPrefix(n, "renderD") {
				g.nodes = append(g.nodes, m.node("/dev/dri/"+n))
			}
		}
		if vendor == AMD {
			g.shared = []deviceplugin.Node{m.node("/dev/kfd")} // ROCm's compute interface, shared by all GPUs
		}
		out = append(out, g)
	}
	return out, nil
}

// node returns the machine's device node at path, under the same path in the container.
func (m *machine) node(path string) deviceplugin.Node {
	return deviceplugin.Node{HostPath: m.path(path), ContainerPath: path, Permissions: "rw"}
}

func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

// list returns the names in a directory in counting order, card2 before card10. A
// missing directory has none.
func (m *machine) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(m.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.SortStableFunc(out, func(a, b string) int { return len(a) - len(b) })
	return out, nil
}

// read returns the content of a small file, or "" if it cannot be read.
func (m *machine) read(path string) string {
	raw, err := os.ReadFile(m.path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// numa returns the NUMA node of a PCI device, or -1, as the kernel does, if there is
// none.
func (m *machine) numa(device string) int {
	n, err := strconv.Atoi(m.read(device + "/numa_node"))
	if err != nil {
		return -1
	}
	return n
}

// keyValues reads lines of the form "Key: value".
func keyValues(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			out[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return out
}
