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

// Config configures a node. The zero value of an optional field means the reference
// part.
type Config struct {
	// Root holds everything that must survive a restart, in the kubelet's layout. Run
	// holds sockets and what a reboot may lose. Both are required, absolute, and for
	// this node alone.
	Root, Run string
	// Manifests is a directory of manifests to run; "" means none.
	Manifests string
	// Name is the node's name, which must be valid in Kubernetes. "" means the host
	// name in lower case.
	Name string

	// RuntimeEndpoint is the endpoint of an external CRI runtime
	// ("unix:///run/containerd/containerd.sock"). "" means the reference runtime, in
	// this process.
	RuntimeEndpoint string
	// OCIRuntime is the OCI runtime of the reference runtime: "crun", "runc", a path,
	// or "" for the first that works here.
	OCIRuntime string
	// Handlers are additional OCI runtimes, by name or path, for the handlers of
	// RuntimeClasses. CDIDirs are the directories of CDI specs; none means /etc/cdi and
	// /var/run/cdi. An external runtime has its own settings for both.
	Handlers map[string]string
	CDIDirs  []string
	// BlockIOClasses is a file of block I/O classes in goresctrl's format, and
	// RDTClasses are resctrl groups. Pods may choose them by annotation; empty means
	// that there are none to choose. An external runtime has its own settings for both.
	BlockIOClasses string
	RDTClasses     []string
	// NoSELinux disables SELinux labels for the Pods of the reference runtime, even if
	// SELinux is enabled. An external runtime has its own setting.
	NoSELinux bool
	// NRI lets NRI plugins see and modify the Pods of the reference runtime.
	NRI NRI
	// SystemdCgroups selects the systemd driver for the cgroups of Pods and containers,
	// instead of files. A machine without systemd is rejected. An external runtime
	// chooses its own driver; the field then counts only if the runtime does not report
	// one.
	SystemdCgroups bool
	// PodPIDs limits the number of tasks of each Pod; zero means no limit.
	PodPIDs int64
	// SingleProcessOOMKill keeps the other processes of a container running when the
	// kernel OOM-kills one.
	SingleProcessOOMKill bool
	// Keeper is the keeper program; "" means to look beside this program and in PATH.
	Keeper string
	// CNIConfDir and CNIBinDirs are the configuration and the plugin directories of an
	// external network, as absolute paths. "" means the node's own bridge, in this
	// process. The reference plugins are searched after the directories.
	CNIConfDir string
	CNIBinDirs []string
	// CNITimeout bounds a call of a CNI plugin; CNITimeouts overrides it by plugin
	// type. Zero means a minute, which is also the most for the node's own plugins.
	CNITimeout  time.Duration
	CNITimeouts map[string]time.Duration
	// CNIImportCache is the libcni cache in which a retired runtime has recorded its
	// attachments to the external network (runtime.LibcniResults of package
	// cni/runtime). Each start imports them and detaches them, because their Pods are
	// gone. "" imports nothing.
	CNIImportCache string
	// CheckNetwork is how often the network of each Pod is checked and, if its plugin
	// is one of the node's own, repaired. Zero means a minute; negative means never.
	CheckNetwork time.Duration
	// Network determines the node's own network on the host. The zero value is replaced
	// at the first start by values that collide with nothing, which are then kept.
	Network Network
	// Without disables reference parts.
	Without Parts
	// Plugins are the author's plugins, started before any Pod; see Plugin.
	Plugins []Plugin
	// GPUs is the number of GPUs to simulate if the machine has none; zero means 2,
	// negative means none.
	GPUs int
	// Images are archives to load into the reference runtime's store at start, unless
	// their contents are there already. Their images are pinned.
	Images []string
	// PinnedImages are the names of images that a kubelet's garbage collection must
	// keep; * stands for any text.
	PinnedImages []string
	// HostsDir is the directory of the registries' mirrors, in the layout of
	// containerd's certs.d. Empty means no mirrors.
	HostsDir string

	// Observe is notified of calls to every plugin, OnStep of every step of every Pod,
	// OnPlugin of the state of the author's plugins, and OnPull of the progress of the
	// reference runtime's pulls. All are called concurrently and must be quick; nil is
	// allowed.
	Observe  *call.Observer
	OnStep   func(pod.Step)
	OnPlugin func(PluginEvent)
	OnPull   func(Pull)
	// OnStderr receives each line that an executed CNI plugin of the reference runtime
	// writes to its standard error. Nil logs them. It is called like the others.
	OnStderr func(plugin, line string)
	// Logger may be nil.
	Logger *slog.Logger
}

// NRI configures NRI: see package cri/nri. The zero value disables it.
type NRI struct {
	// Socket is the socket that plugins connect to, "" for none. Most plugins expect
	// /var/run/nri/nri.sock.
	Socket string
	// PluginDir contains plugins that the runtime starts, "" for none. ConfigDir
	// contains their configurations.
	PluginDir, ConfigDir string
	// Timeout bounds a plugin's answer; zero means NRI's two seconds.
	Timeout time.Duration
}

func (n NRI) enabled() bool { return n.Socket != "" || n.PluginDir != "" }

// Pull is the progress of the download of one image layer, in bytes.
type Pull struct {
	Image, Layer string
	Done, Total  int64
}

// Parts are the reference plugins that can be disabled.
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
		if !filepath.IsAbs(dir) { // they are in CNI_PATH, and plugins run in other directories
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

// nodeName returns the requested name, or derives one from the host name as Kubernetes
// does. If the name cannot be a Node's name, or the value of its host name label, the
// error is fault.Invalid.
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
