// Package gpu is the reference device plugin: it offers the machine's NVIDIA, AMD and
// Intel GPUs, or simulated ones if it has none, as one resource.
//
// A container gets the device nodes of its GPUs, directly or through CDI, and their ids
// in NODEKIT_GPU_IDS. GPUs are found in /proc/driver/nvidia and /sys/class/drm, and are
// healthy as long as their device nodes exist. The vendors' management libraries are
// not used, so a GPU that fell off its bus is noticed only when its nodes disappear.
// The user space of a driver is not injected; for NVIDIA, its container runtime does
// that from NVIDIA_VISIBLE_DEVICES, or it is part of the image.
//
// A simulated GPU is a real character device that behaves as /dev/null.
package gpu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/yamlfile"
)

// DefaultResource is the resource name if the configuration does not set one.
const DefaultResource = "nodekit.dev/gpu"

// The valid values of Config.Vendors.
const (
	NVIDIA = "nvidia"
	AMD    = "amd"
	Intel  = "intel"
)

// Config selects the GPUs to offer and how. The zero Config offers those of the machine
// through their device nodes.
type Config struct {
	// Resource is the resource's name; empty means DefaultResource.
	Resource string `json:"resource,omitempty"`
	// Vendors restricts the search: "nvidia", "amd", "intel". Empty means all.
	Vendors []string `json:"vendors,omitempty"`
	// Simulate is the number of GPUs to simulate if the machine has none; 0 means that
	// a machine without GPUs is an error. Simulation needs root.
	Simulate int `json:"simulate,omitempty"`
	// StateDir holds the device nodes of simulated GPUs. Required with Simulate.
	StateDir string `json:"stateDir,omitempty"`
	// CDIDir is a directory for CDI specs that the container runtime reads, such as
	// /var/run/cdi. Containers then get CDI names instead of device nodes. The spec is
	// not removed when the plugin ends, because containers need it to start again.
	// Empty means plain device nodes.
	CDIDir string `json:"cdiDir,omitempty"`

	// Root is the directory that contains the machine's /proc, /sys and /dev; empty
	// means "/". Tests pass a tree of their own.
	Root string `json:"-"`
	// Logger receives the GPUs found and their changes of health. Nil discards it.
	Logger *slog.Logger `json:"-"`
}

// LoadConfig reads a YAML file. A mistake in it is ErrInvalid, and the error names the file,
// and the line or key.
func LoadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the GPU configuration: %w", err)
	}
	var c Config
	if err := yamlfile.Decode(raw, &c); err != nil {
		return Config{}, fmt.Errorf("reading the GPU configuration %q: %w", path, err)
	}
	if err := c.setDefaults(); err != nil {
		return Config{}, fmt.Errorf("reading the GPU configuration %q: %w", path, err)
	}
	return c, nil
}

func (c *Config) setDefaults() error {
	if c.Resource == "" {
		c.Resource = DefaultResource
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.Vendors) == 0 {
		c.Vendors = []string{NVIDIA, AMD, Intel}
	}
	for _, v := range c.Vendors {
		if v != NVIDIA && v != AMD && v != Intel {
			return fault.Invalid.Errorf("vendor %q: want nvidia, amd or intel", v)
		}
	}
	if c.Simulate < 0 || c.Simulate > 1024 {
		return fault.Invalid.Errorf("simulate is %d: want 0 to 1024", c.Simulate)
	}
	if c.Simulate > 0 && c.StateDir == "" {
		return fault.Invalid.Errorf("simulate is set and stateDir is not: it is where the simulated devices are made")
	}
	return deviceplugin.ValidResource(c.Resource)
}

// New finds the GPUs and returns the plugin that offers them, for deviceplugin.Serve.
// It creates the simulated devices and writes the CDI spec; both are idempotent, also
// after a crash. A machine without GPUs is ErrNotFound, unless Config.Simulate is set.
func New(c Config) (*deviceplugin.Plugin, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("configuring the GPU plugin: %w", err)
	}
	gpus, err := discover(c.Root, c.Vendors)
	if err != nil {
		return nil, err
	}
	switch {
	case len(gpus) > 0:
	case c.Simulate > 0:
		if gpus, err = simulate(c.StateDir, c.Simulate); err != nil {
			return nil, err
		}
	default:
		return nil, deviceplugin.ErrNotFound.Errorf("no GPU of %s found in %s and %s: load the driver, or set simulate to a number of GPUs to simulate",
			strings.Join(c.Vendors, ", "), filepath.Join(c.Root, nvidiaDir), filepath.Join(c.Root, drmDir))
	}
	for _, g := range gpus {
		c.Logger.Info("GPU found", "device", g.id, "vendor", g.vendor, "model", g.model, "pci", g.pci, "numa", g.numa)
	}
	if c.CDIDir != "" {
		if err := writeSpec(c.CDIDir, c.Resource, gpus); err != nil {
			return nil, err
		}
	}
	o := &offer{config: c, gpus: gpus}
	return &deviceplugin.Plugin{Resource: c.Resource, Watch: o.watch, Allocate: o.allocate, Prefer: o.prefer}, nil
}

// offer is the plugin's state: only what New found.
type offer struct {
	config Config
	gpus   []gpu
}

func (o *offer) allocate(_ context.Context, ids []string) (*deviceplugin.Allocation, error) {
	a := &deviceplugin.Allocation{Envs: map[string]string{"NODEKIT_GPU_IDS": strings.Join(ids, ",")}}
	var nvidia []string
	for _, g := range o.gpus {
		if !slices.Contains(ids, g.id) {
			continue
		}
		if g.vendor == NVIDIA {
			nvidia = append(nvidia, g.visible)
		}
		if o.config.CDIDir != "" {
			a.CDI = append(a.CDI, qualified(o.config.Resource, g.id))
			continue
		}
		for _, n := range g.allNodes() {
			if !slices.Contains(a.Nodes, n) { // those that GPUs share
				a.Nodes = append(a.Nodes, n)
			}
		}
	}
	if len(nvidia) > 0 {
		a.Envs["NVIDIA_VISIBLE_DEVICES"] = strings.Join(nvidia, ",")
	}
	return a, nil
}
