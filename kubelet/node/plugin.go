package node

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Kind is the interface that a plugin implements.
type Kind string

// The kinds of plugin.
const (
	CNI          Kind = "cni"
	CSI          Kind = "csi"
	DevicePlugin Kind = "deviceplugin"
	CRI          Kind = "cri"
)

var kinds = []Kind{CNI, CSI, DevicePlugin, CRI}

// Plugin is a plugin program that the node starts, restarts when it dies, and uses
// instead of the reference part of its kind.
//
// It runs in its own mount namespace, in which the node's root is at /var/lib/kubelet.
// Its environment is this process's, plus the conventional variables of the interfaces:
// CSI_ENDPOINT, NODE_ID, NODE_NAME, KUBE_NODE_NAME, CONTAINER_RUNTIME_ENDPOINT. If a
// CSI driver only serves CSI_ENDPOINT, relying on a registrar sidecar, the node
// registers it.
type Plugin struct {
	Path string
	// Args may refer to variables of the plugin's environment: $(CSI_ENDPOINT).
	Args []string
	// Kind is the plugin's kind. Empty means that the node detects it from the first
	// thing that the plugin does: answer CNI's VERSION, serve CSI_ENDPOINT or
	// CONTAINER_RUNTIME_ENDPOINT, or register.
	Kind Kind
	// Stderr receives what the program prints, on both streams. Nil discards it.
	Stderr io.Writer
}

// PluginEvent is a change in the state of one of the author's plugins: the node waits
// for it, uses it, or restarts it after it has ended.
type PluginEvent struct {
	Plugin string // the program's base name
	What   string // for people
	Took   time.Duration
	Err    error // how the program ended, if it did
}

// ParsePlugin reads "program" or "kind=program".
func ParsePlugin(s string) (Plugin, error) {
	p := Plugin{Path: s}
	if kind, path, ok := strings.Cut(s, "="); ok && !strings.Contains(kind, "/") {
		p = Plugin{Kind: Kind(kind), Path: path}
		if !slices.Contains(kinds, p.Kind) {
			return p, fault.Invalid.Errorf("plugin %q: kind %q is none of cni, csi, deviceplugin, cri", s, kind)
		}
	}
	if p.Path == "" {
		return p, fault.Invalid.Errorf("plugin %q: the program is missing", s)
	}
	path, err := filepath.Abs(p.Path)
	p.Path = path
	return p, err
}

// name returns the plugin's name in events and directories.
func (p *Plugin) name() string { return filepath.Base(p.Path) }

// expand replaces $(NAME) in the arguments with the value in env. Unknown names stay as
// they are, as in a container's args.
func expand(args []string, env map[string]string) []string {
	var pairs []string
	for name, value := range env {
		pairs = append(pairs, "$("+name+")", value)
	}
	replace := strings.NewReplacer(pairs...)
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = replace.Replace(a)
	}
	return out
}
