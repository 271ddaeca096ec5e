// Package registration speaks the kubelet's plugin registration protocol
// (k8s.io/kubelet pluginregistration/v1) on both sides: Watch is the kubelet's,
// which watches <root>/plugins_registry once for every kind of plugin, and
// Serve the plugin's, which puts a socket there.
//
// Both are driven by inotify: a plugin is registered some milliseconds after
// its socket appears. A slow scan of the directory is the safety net behind it.
// Both functions may be called any number of times in one process.
package registration

import (
	"context"
	"log/slog"

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
	// It is called again for a plugin whose process was replaced, after
	// Deregister for the one before. Its context ends when the socket goes.
	Register func(context.Context, Plugin) error
	// Deregister is told that the plugin's socket is gone. It is called only
	// for an instance that Register accepted, and not when Watch ends. It must
	// return: a successor at the same path waits for it.
	Deregister func(Plugin)
}

// Options are the options of Watch and Serve; nil means the defaults.
type Options struct {
	// Logger gets registrations, refusals and their reasons. Nil discards.
	Logger *slog.Logger
	// Status is told by Serve what the kubelet answered: nil for each
	// registration, an error with the kubelet's words for each refusal. It is
	// called while the kubelet waits and so must be quick. Nil means nobody asks.
	// Watch does not use it.
	Status func(error)
}

func (o *Options) orDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Logger == nil {
		out.Logger = slog.New(slog.DiscardHandler)
	}
	if out.Status == nil {
		out.Status = func(error) {}
	}
	return out
}
