package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

const (
	stopGrace       = 2 * time.Second  // for calls in flight when a session ends
	registerTimeout = 10 * time.Second // the kubelet dials back during the call
	streamTimeout   = 10 * time.Second // from Register to ListAndWatch
	takeoverTimeout = 10 * time.Second // for a predecessor that is about to end
	reopenGrace     = 200 * time.Millisecond
	firstRetry      = 10 * time.Millisecond
	lastRetry       = 30 * time.Second
	recheckEvery    = time.Second // the safety net behind inotify
)

// registrar keeps the plugin registered. It runs one session after another; each uses a
// new socket and lasts until the kubelet restarts. A restarting kubelet forgets its
// plugins and removes all sockets beside kubelet.sock.
type registrar struct {
	plugin      *Plugin
	devices     *inventory
	dir, socket string
	log         *slog.Logger

	kubelet *sockfile.ID  // the kubelet of the last session that registered
	delay   time.Duration // before registering with the same kubelet again
}

func (r *registrar) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.session(ctx); err != nil {
			return err
		}
	}
	return nil
}

// session serves at a new socket and registers it. It returns nil when a new
// session is needed or ctx ended; no stream outlives it.
func (r *registrar) session(ctx context.Context) error {
	events, err := r.watchDir(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer events.Close()
	l, err := r.listen(ctx)
	if err != nil || l == nil {
		return err
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := newServer(r.plugin, r.devices, r.log, ctx.Done())
	g := grpc.NewServer(rpc.ServerOptions("deviceplugin", r.log)...)
	api.RegisterDevicePluginServer(g, srv)
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- rpc.Serve(ctx, g, l, stopGrace)
	}()
	wake := &signals{files: events, streams: srv.changed, log: r.log}
	if r.register(ctx, l, wake) {
		r.attend(ctx, srv, l, wake)
	}
	cancel()
	return <-served
}

// watchDir watches the directory once the kubelet has created it.
func (r *registrar) watchDir(ctx context.Context) (*fsnotify.Watcher, error) {
	for told := false; ; told = true {
		events, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, fmt.Errorf("watching %q: %w", r.dir, err)
		}
		err = events.Add(r.dir)
		if err == nil {
			return events, nil
		}
		events.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("watching %q: %w", r.dir, err)
		}
		if !told {
			r.log.Info("waiting for the kubelet to make its directory", "dir", r.dir)
		}
		if !sleep(ctx, recheckEvery/4) {
			return nil, nil
		}
	}
}

// listen waits a limited time for a predecessor that is still shutting down. If the
// directory has disappeared in the meantime, it returns neither a listener nor an
// error.
func (r *registrar) listen(ctx context.Context) (*sockfile.Listener, error) {
	deadline := time.Now().Add(takeoverTimeout)
	for {
		l, err := sockfile.Listen(filepath.Join(r.dir, r.socket))
		switch {
		case err == nil:
			return l, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case !errors.Is(err, fault.AlreadyExists) || time.Now().After(deadline):
			return nil, err
		}
		if !sleep(ctx, 10*firstRetry) {
			return nil, nil
		}
	}
}

// register registers with the kubelet as soon as it is running. It reports false if the
// session ends before that.
func (r *registrar) register(ctx context.Context, l *sockfile.Listener, wake *signals) bool {
	notBefore := time.Now().Add(r.delay)
	retry := firstRetry
	var tried *sockfile.ID
	told := false
	for ctx.Err() == nil && l.Present() {
		kubelet, err := sockfile.Identify(r.kubeletSocket())
		wait := recheckEvery
		switch {
		case err != nil || kubelet == nil: // its creation is an event
			if !told {
				r.log.Info("waiting for the kubelet", "socket", r.kubeletSocket())
			}
			told = true
		case kubelet.Same(r.kubelet) && time.Now().Before(notBefore):
			wait = time.Until(notBefore)
		default:
			if err = r.registerOnce(ctx); err == nil {
				r.kubelet = kubelet
				r.log.Info("registered with the kubelet", "endpoint", r.socket)
				return true
			}
			if !kubelet.Same(tried) {
				retry = firstRetry
			}
			tried, wait, retry = kubelet, retry, min(2*retry, lastRetry)
			r.log.Warn("registering with the kubelet", "err", err, "retry", wait)
		}
		wake.await(ctx, wait, func() bool { return !l.Present() || r.restarted(kubelet) })
	}
	return false
}

func (r *registrar) kubeletSocket() string {
	return filepath.Join(r.dir, filepath.Base(api.KubeletSocket))
}

// restarted reports whether a kubelet is running that is not the given one.
func (r *registrar) restarted(before *sockfile.ID) bool {
	now, err := sockfile.Identify(r.kubeletSocket())
	return err == nil && now != nil && !now.Same(before)
}

func (r *registrar) registerOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	conn, err := rpc.Dial(r.kubeletSocket(), "deviceplugin", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version:      api.Version,
		Endpoint:     r.socket,
		ResourceName: r.plugin.Resource,
		Options:      optionsOf(r.plugin),
	})
	return err
}

// attend returns when the session is over: ctx has ended, the kubelet has removed the
// plugin's socket, another kubelet is running, or the kubelet does not watch the
// devices. No file event shows the last; without a stream the resource would stay at
// zero.
func (r *registrar) attend(ctx context.Context, srv *server, l *sockfile.Listener, wake *signals) {
	over := func() bool { return !l.Present() || r.restarted(r.kubelet) }
	watching := func() bool { now, _ := srv.open(); return now }
	began := time.Now()
	for ctx.Err() == nil && !over() {
		if watching() {
			wake.await(ctx, time.Hour, func() bool { return !watching() || over() })
			continue
		}
		patience := reopenGrace
		_, before := srv.open()
		if !before {
			patience = streamTimeout
		}
		wake.await(ctx, patience, func() bool {
			now, ever := srv.open()
			return now || ever != before || over()
		})
		if _, ever := srv.open(); ever != before {
			continue // it was open, however briefly
		}
		if ctx.Err() == nil && !watching() && !over() {
			r.backOff(time.Since(began))
			r.log.Warn("the kubelet does not watch the devices: registering again", "delay", r.delay)
			return
		}
	}
	r.delay = 0
	if ctx.Err() == nil {
		r.log.Info("the kubelet restarted: registering again")
	}
}

// backOff keeps the plugin from hammering a kubelet that hangs up each time, and from
// fighting with another plugin over the resource.
func (r *registrar) backOff(lived time.Duration) {
	if lived > lastRetry {
		r.delay = 0
	}
	r.delay = min(max(2*r.delay, reopenGrace), lastRetry)
}

// signals are the events that a session waits for: changes in the directory, and
// streams that open or end.
type signals struct {
	files   *fsnotify.Watcher
	streams <-chan struct{}
	log     *slog.Logger
}

// await waits until d has passed, ctx ends, or cond holds. It evaluates cond at each
// signal.
func (s *signals) await(ctx context.Context, d time.Duration, cond func() bool) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	recheck := time.NewTicker(recheckEvery)
	defer recheck.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return
		case <-timeout.C:
			return
		case <-s.files.Events:
		case err := <-s.files.Errors: // an overflow: events were lost
			s.log.Debug("looking again", "err", err)
		case <-s.streams:
		case <-recheck.C:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
