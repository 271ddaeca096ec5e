package registration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

const (
	// stopGrace is how long calls in flight may take when the server stops.
	stopGrace = time.Second
	// recheckEvery is how often Serve checks whether a removed registry exists again.
	recheckEvery = time.Second
)

// Serve announces the plugin in dir, the kubelet's plugins_registry, until ctx ends;
// then it removes its socket and returns nil. The plugin's endpoint must be served
// before.
//
// The socket is p.Socket, or has a stable name derived from p.Name. A socket left by
// a killed predecessor is replaced; a live one is fault.AlreadyExists. The socket
// appears only when it accepts connections. If somebody removes it, as administrators
// do to force a registration, it is created again.
//
// Nothing need watch for a restart of the kubelet: a starting kubelet registers what
// it finds in the directory.
func Serve(ctx context.Context, dir string, p Plugin, opts *Options) error {
	o := opts.orDefaults()
	if p.Socket == "" {
		p.Socket = filepath.Join(dir, strings.ReplaceAll(p.Name, "/", "_")+"-reg.sock")
	}
	if err := os.MkdirAll(filepath.Dir(p.Socket), 0o750); err != nil {
		return fmt.Errorf("making the plugin registry: %w", err)
	}
	log := o.Logger.With("kind", p.Kind, "plugin", p.Name, "socket", p.Socket)
	for ctx.Err() == nil {
		if err := serveOnce(ctx, p, &o, log); err != nil {
			return err
		}
	}
	return nil
}

// serveOnce serves until ctx ends or the socket file is no longer ours.
func serveOnce(ctx context.Context, p Plugin, o *Options, log *slog.Logger) error {
	l, err := sockfile.Listen(p.Socket)
	if err != nil {
		return fmt.Errorf("registering plugin %q: %w", p.Name, err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching := make(chan error, 1)
	go func() {
		defer cancel()
		watching <- watchOwn(ctx, l, log)
	}()
	s := grpc.NewServer(rpc.ServerOptions("registration", log)...)
	registerapi.RegisterRegistrationServer(s, &server{plugin: p, status: o.Status, log: log})
	log.Debug("announcing the plugin")
	err = rpc.Serve(ctx, s, l, stopGrace)
	cancel()
	return errors.Join(err, <-watching)
}

// watchOwn returns when the file at l's path is no longer l's own and the directory
// exists, or when ctx ends.
func watchOwn(ctx context.Context, l *sockfile.Listener, log *slog.Logger) error {
	path := l.Path()
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %q: %w", path, err)
	}
	defer events.Close()
	if err := events.Add(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("watching %q: %w", path, err)
	}
	recheck := time.NewTicker(recheckEvery)
	defer recheck.Stop()
	for {
		if !l.Present() {
			if _, err := os.Stat(filepath.Dir(path)); err == nil {
				log.Info("the registration socket was removed: announcing the plugin again")
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events.Events:
		case err := <-events.Errors: // an overflow: events were lost
			log.Debug("looking again", "err", err)
		case <-recheck.C:
		}
	}
}

// server is the plugin's side of the protocol.
type server struct {
	registerapi.UnimplementedRegistrationServer
	plugin Plugin
	status func(error)
	log    *slog.Logger
}

// GetInfo returns what the plugin is.
func (s *server) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:              s.plugin.Kind,
		Name:              s.plugin.Name,
		Endpoint:          s.plugin.Endpoint,
		SupportedVersions: s.plugin.Versions,
	}, nil
}

// NotifyRegistrationStatus receives the kubelet's verdict. A refusal does not end the
// plugin: the kubelet retries.
func (s *server) NotifyRegistrationStatus(_ context.Context, in *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if in.GetPluginRegistered() {
		s.log.Info("the kubelet registered the plugin")
		s.status(nil)
	} else {
		s.log.Error("the kubelet refused to register the plugin and will try again", "err", in.GetError())
		s.status(fault.FailedPrecondition.Errorf("the kubelet refused to register %s %q: %s", s.plugin.Kind, s.plugin.Name, in.GetError()))
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
