package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Config says what a node is made of. The zero value of each optional field
// is the reference part.
type Config struct {
	// Root holds everything that survives a restart, in the kubelet's own
	// layout; Run holds sockets and what a reboot may lose. Both are required,
	// absolute, and this node's alone.
	Root, Run string
	// Manifests is a directory of manifests to run; "" for none.
	Manifests string
	// Name is the node's name, which has to be valid in Kubernetes; "" means the
	// host's, in lower case.
	Name string

	// RuntimeEndpoint is a foreign CRI runtime ("unix:///run/containerd/containerd.sock").
	// "" means the reference runtime, in this process.
	RuntimeEndpoint string
	// OCIRuntime names the OCI runtime of the reference runtime: "crun", "runc",
	// a path, or "" to take the first that works here.
	OCIRuntime string
	// Handlers are further OCI runtimes, by name or path, for the handlers that
	// RuntimeClasses name. CDIDirs are where CDI devices are described; none means
	// /etc/cdi and /var/run/cdi. A foreign runtime has its own of both.
	Handlers map[string]string
	CDIDirs  []string
	// BlockIOClasses is the file of the block I/O classes, in goresctrl's format, and
	// RDTClasses are the groups of resctrl, that Pods may choose by annotation; empty
	// means that they may choose none. A foreign runtime has its own of both.
	BlockIOClasses string
	RDTClasses     []string
	// NoSELinux leaves the Pods of the reference runtime without SELinux labels, also
	// where SELinux is on. A foreign runtime has a switch of its own.
	NoSELinux bool
	// NRI lets NRI plugins see and change the Pods of the reference runtime.
	NRI NRI
	// SystemdCgroups has systemd make the cgroups of Pods and containers, instead
	// of files; a machine without systemd is refused. A foreign runtime has its
	// own way, and this counts only where it does not say which.
	SystemdCgroups bool
	// PodPIDs bounds the tasks of each Pod; zero does not.
	PodPIDs int64
	// SingleProcessOOMKill leaves the other processes of a container alone when
	// the kernel kills one for memory.
	SingleProcessOOMKill bool
	// Keeper is the keeper program; "" looks beside this program and in PATH.
	Keeper string
	// CNIConfDir and CNIBinDirs are a foreign network's configuration and
	// programs, which are absolute paths. "" means the node's own bridge, in this
	// process. The reference plugins are found behind the directories.
	CNIConfDir string
	CNIBinDirs []string
	// CNITimeout bounds a call of a CNI plugin, and CNITimeouts those of plugins that
	// differ, by type. Zero means a minute, which plugins of the node's own do not
	// exceed.
	CNITimeout  time.Duration
	CNITimeouts map[string]time.Duration
	// CNIImportCache is where a runtime that is retired has kept, by libcni, what it
	// attached to the foreign network (runtime.LibcniResults of package cni/runtime).
	// Each start takes that over and detaches it, as the Pods are no more. "" is nothing.
	CNIImportCache string
	// CheckNetwork is how often the network of each Pod is checked and, where its
	// plugin is one of the node's own, repaired. Zero means a minute, less never.
	CheckNetwork time.Duration
	// Network places the node's own network on the host. The zero value is
	// chosen at the first start so that it collides with nothing, and kept.
	Network Network
	// Without switches reference parts off.
	Without Parts
	// Plugins are the author's own, started before any Pod is; see Plugin.
	Plugins []Plugin
	// GPUs is the number of GPUs to simulate where the machine has none; zero
	// means 2, negative none.
	GPUs int
	// Images are archives to put into the reference runtime's store at start,
	// unless what they hold is there already. Their images are pinned.
	Images []string
	// PinnedImages are the images that a kubelet's garbage collection must spare:
	// names, in which * stands for any text.
	PinnedImages []string
	// HostsDir is the directory that says which mirrors registries have, in the
	// layout of containerd's certs.d. Empty means that there are none.
	HostsDir string

	// Observe is told of calls to every plugin, OnStep of every step of
	// every Pod, OnPlugin of what becomes of the author's plugins, OnPull of how
	// far the reference runtime's pulls are. All may be called from many
	// goroutines and must be quick; nil is allowed.
	Observe  *call.Observer
	OnStep   func(pod.Step)
	OnPlugin func(PluginEvent)
	OnPull   func(Pull)
	// OnStderr gets each line that an executed CNI plugin of the reference runtime
	// writes to its standard error. Nil logs them. It is called like the others.
	OnStderr func(plugin, line string)
	// Logger may be nil.
	Logger *slog.Logger
}

// NRI says where NRI plugins are: see package cri/nri. The zero value has none.
type NRI struct {
	// Socket is where plugins connect, "" for nowhere. Most plugins look at
	// /var/run/nri/nri.sock.
	Socket string
	// PluginDir has plugins that the runtime starts, "" for none, and ConfigDir
	// their configurations.
	PluginDir, ConfigDir string
	// Timeout is how long a plugin may take to answer, zero for NRI's two seconds.
	Timeout time.Duration
}

func (n NRI) enabled() bool { return n.Socket != "" || n.PluginDir != "" }

// Pull is how far the download of one layer of an image is, in bytes.
type Pull struct {
	Image, Layer string
	Done, Total  int64
}

// Parts are the reference plugins that can be switched off.
type Parts struct {
	GPU, Hostpath bool
}

func (c *Config) setDefaults() error {
	var errs []error
	for _, dir := range []string{c.Root, c.Run} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fault.Invalid.Errorf("the node's directory %q: want an absolute path", dir))
		}
	}
	for _, dir := range c.CNIBinDirs {
		if !filepath.IsAbs(dir) { // CNI_PATH has them, and plugins run elsewhere
			errs = append(errs, fault.Invalid.Errorf("the directory of CNI plugins %q: want an absolute path", dir))
		}
	}
	name, err := nodeName(c.Name, os.Hostname)
	errs = append(errs, err)
	c.Name = name
	if c.GPUs == 0 {
		c.GPUs = 2
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnPlugin == nil {
		c.OnPlugin = func(PluginEvent) {}
	}
	if c.RuntimeEndpoint == "" && c.Keeper == "" {
		keeper, err := findProgram("keeper")
		errs = append(errs, err)
		c.Keeper = keeper
	}
	return errors.Join(errs...)
}

// nodeName returns the name that was asked for, or makes one of the host's as
// Kubernetes does. One that cannot be a Node's name, or the value of its host name
// label, is refused with fault.Invalid.
func nodeName(asked string, hostname func() (string, error)) (string, error) {
	name, from := asked, "the node's name"
	if asked == "" {
		host, err := hostname()
		if err != nil {
			return "", fmt.Errorf("asking for the host's name: %w", err)
		}
		name, from = strings.ToLower(strings.TrimSpace(host)), "the host's name, which is to be the node's,"
	}
	if why := slices.Concat(validation.IsDNS1123Subdomain(name), validation.IsValidLabelValue(name)); len(why) > 0 {
		return "", fault.Invalid.Errorf("%s is %q: %s; give the node another name", from, name, why[0])
	}
	return name, nil
}
