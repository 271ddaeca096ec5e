// Package registration implements both sides of the kubelet's plugin registration
// protocol (k8s.io/kubelet pluginregistration/v1): Watch is the kubelet's side and
// watches <root>/plugins_registry for plugins of every kind; Serve is the plugin's
// side and puts a socket there.
//
// Both are driven by inotify: a plugin is registered some milliseconds after its
// socket appears. A slow periodic scan of the directory is the safety net. Both
// functions may be called any number of times in one process.
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

// Handler handles the plugins of one kind. Its functions are called one at a time for
// one socket, and concurrently for different sockets.
type Handler struct {
	// Register starts using the plugin. An error is reported to the plugin, and the
	// registration is retried with back-off while its socket exists. For a plugin
	// whose process was replaced, Register is called again, after Deregister for the
	// previous instance. Its context ends when the socket goes.
	Register func(context.Context, Plugin) error
	// Deregister is called when the plugin's socket is gone, only for an instance
	// that Register accepted, and not when Watch ends. It must return: a successor at
	// the same path waits for it.
	Deregister func(Plugin)
}

// Options are the options of Watch and Serve; nil means the defaults.
type Options struct {
	// Logger receives registrations, refusals and their reasons. Nil discards them.
	Logger *slog.Logger
	// Status is called by Serve with the kubelet's answer: nil for each registration,
	// an error with the kubelet's text for each refusal. The kubelet waits for it, so
	// it must return quickly. Nil means no callback. Watch does not use it.
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
