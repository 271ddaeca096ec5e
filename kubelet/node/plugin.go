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

// Plugin is a plugin program that the node starts, restarts when it dies, and
// uses instead of the reference part of its kind.
//
// It runs in a mount namespace of its own in which the node's root is at
// /var/lib/kubelet. Its environment is this process's and what the conventions
// of the interfaces want: CSI_ENDPOINT, NODE_ID, NODE_NAME, KUBE_NODE_NAME,
// CONTAINER_RUNTIME_ENDPOINT. A CSI driver that only serves CSI_ENDPOINT, as
// those do that count on a registrar beside them, is registered by the node.
type Plugin struct {
	Path string
	// Args may name variables of the plugin's environment: $(CSI_ENDPOINT).
	Args []string
	// Kind is the plugin's kind. Empty means that the node finds out: the kind
	// is that of the first thing it does, answer CNI's VERSION, serve
	// CSI_ENDPOINT or CONTAINER_RUNTIME_ENDPOINT, or register.
	Kind Kind
	// Stderr gets what the program prints, on both streams. Nil discards it.
	Stderr io.Writer
}

// PluginEvent is what became of one of the author's plugins: it is waited for, it is in
// use, it ended and is started again.
type PluginEvent struct {
	Plugin string // the program's base name
	What   string // for people
	Took   time.Duration
	Err    error // how the program ended, when it did
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

// name is what events and directories call the plugin.
func (p *Plugin) name() string { return filepath.Base(p.Path) }

// expand replaces $(NAME) in the arguments by the value in env; a name that is
// not there stays as it is, as in a container's args.
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
