// Package registration speaks the kubelet's plugin registration protocol
// (k8s.io/kubelet pluginregistration/v1) on both sides: Watch is the kubelet's,
// which watches <root>/plugins_registry once for every kind of plugin, and
// Serve the plugin's, which puts a socket there.
package registration

import (
	"context"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// The kinds of plugin that may register.
const (
	CSIPlugin    = registerapi.CSIPlugin
	DevicePlugin = registerapi.DevicePlugin
)

// Plugin is a plugin that announced itself in plugins_registry.
type Plugin struct {
	Kind     string   // CSIPlugin or DevicePlugin
	Name     string   // the driver's or the resource's name
	Endpoint string   // the socket that serves the plugin's API, an absolute path
	Versions []string // the API versions that it supports
	Socket   string   // the registration socket, which identifies this instance
}

// Handler takes the plugins of one kind. Its functions are called one at a
// time for one socket, and concurrently for different sockets.
type Handler struct {
	// Register takes the plugin in use. An error is told to the plugin, and the
	// registration is tried again with back-off while its socket is there.
	// It is called again for a plugin whose process was replaced.
	Register func(context.Context, Plugin) error
	// Deregister is told that the plugin's socket is gone. It is called only
	// for an instance that Register accepted.
	Deregister func(Plugin)
}
