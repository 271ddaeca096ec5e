// Package nri lets NRI plugins see and change the Pods of a CRI runtime that is written
// with package cri.
//
// An NRI plugin (Node Resource Interface, github.com/containerd/nri) is a program of the
// node's administrator. It connects to a socket of the runtime, or the runtime starts it,
// and it is notified of the life cycle of Pods and containers. When a container is
// created, a plugin may add environment variables, mounts, devices, hooks and limits; it
// may change the limits of other containers at any time.
//
// The author of a runtime creates one Plugins and does two things with it: the runtime's
// CreateContainer calls Adjust with the container's OCI spec before it uses that, and
// Extend wraps the runtime's own functions with the calls of plugins before they are
// served. Everything else (who is connected, in which order plugins are called, and what
// two of them must not both change) is done by NRI's own adaptation package.
//
// What plugins are told, and when:
//
//	RunPodSandbox                   the sandbox is ready; an error takes it down again
//	UpdatePodSandbox, Post...       around UpdateSandbox; an error leaves all as it was
//	StopPodSandbox, RemovePodSandbox   it has happened, once each
//	CreateContainer                 Adjust; an error fails the creation
//	PostCreateContainer             CreateContainer has succeeded
//	StartContainer                  before StartContainer, which fails with it
//	PostStartContainer              the program runs
//	UpdateContainer, Post...        around UpdateContainer, and may change the limits
//	StopContainer                   the program has ended, for whatever reason, once
//	RemoveContainer                 nothing is left of it
//
// A change that a plugin requests for another container, in an answer or unsolicited,
// takes its turn among the runtime's own calls for that sandbox (cri.ChangeLimits).
// Usually it is applied before the call continues for which the plugin was asked; if it
// fails, so does the call, unless the plugin sets IgnoreFailure. If calls are in progress
// in the other sandbox, it is applied after them, and a failure is only logged: a
// container that is still being created thus has the change once it exists. A plugin may
// not know yet that a container has ended or was removed: such a change is only logged,
// and so is one for a container whose Pod is being restored.
//
// The limits in force are those that plugins want, and ContainerStatus shows them. A
// limit that is impossible, or at an update cannot be expressed in the CRI, is refused
// with the field's name.
//
// A plugin that connects later is first told what exists: every sandbox, and every
// container that has not ended. No container created meanwhile is left out. A plugin that
// does not answer in time is disconnected.
package nri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// Config configures where plugins are found.
type Config struct {
	// Socket is where plugins connect. It is accessible to root only. Its directory is made
	// if it does not exist. If another runtime uses it, it is refused with
	// fault.AlreadyExists; one that a killed runtime left is replaced. See CheckSocket.
	// Empty means that no plugin can connect.
	Socket string
	// PluginDir contains programs to start as plugins, named by a two-digit index, which
	// gives the order, and a name: 10-balloons. ConfigDir contains their configurations:
	// 10-balloons.conf or balloons.conf. If PluginDir is empty or does not exist, none
	// are started.
	PluginDir, ConfigDir string
	// Timeout is how long a plugin may take to answer before it is disconnected. Zero
	// means NRI's two seconds; a negative value is refused with fault.Invalid.
	Timeout time.Duration
	// Logger may be nil. NRI's package has a single logger and timeout per process: those
	// of the last Extend.
	Logger *slog.Logger
}

// Methods are what plugins need of a runtime besides its functions.
type Methods struct {
	// Spec returns the OCI spec of a container that CreateContainer has created. It is
	// required. It is called concurrently with other calls for the container, and may
	// fail for one that is being removed.
	Spec func(*cri.Container) (*specs.Spec, error)
	// InjectCDI adds the named CDI devices to a spec. If it is nil, plugins that request
	// any are refused.
	InjectCDI func(doc *specs.Spec, names []string) error
	// BlockIO and RDT return the parameters of a class. If one is nil or returns an
	// error, plugins that name such a class are refused. A resctrl group that a plugin
	// names itself (ClosID) must be that of a class.
	BlockIO func(class string) (*specs.LinuxBlockIO, error)
	RDT     func(class string) (*specs.LinuxIntelRdt, error)
}

// Plugins manages the NRI plugins of one runtime. The methods are safe for concurrent
// use.
type Plugins struct {
	cfg     Config
	author  cri.Runtime // the runtime as it was before Extend
	methods Methods
	nri     *adaptation.Adaptation
	// change applies a plugin's change in turn with the calls for the sandbox.
	change cri.ChangeLimits
	// heard is the number of connected plugins; see Adaptation.UpdatePluginCount.
	heard atomic.Int64

	mu         sync.Mutex
	pods       map[string]*pod
	containers map[string]*container
}

// New returns a Plugins, which has no plugins before the runtime recovers.
func New(cfg Config) *Plugins {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Plugins{cfg: cfg, pods: map[string]*pod{}, containers: map[string]*container{}}
}

// Extend makes the runtime's functions call the plugins. Call it once, before the runtime
// is served. Plugins are started, and may connect, when rt.Recover has succeeded; if that
// fails, for example because the socket cannot be created, Recover returns the error.
func (p *Plugins) Extend(rt *cri.Runtime, m Methods) error {
	if m.Spec == nil {
		return fault.Invalid.Errorf("extending the runtime by NRI plugins: Methods.Spec is needed")
	}
	if p.cfg.Timeout < 0 {
		return fault.Invalid.Errorf("extending the runtime by NRI plugins: the timeout %v: a plugin cannot answer in less than no time", p.cfg.Timeout)
	}
	logTo(p.cfg.Logger)
	adaptation.SetPluginRequestTimeout(cmp.Or(p.cfg.Timeout, api.DefaultPluginRequestTimeout))
	p.author, p.methods = *rt, m
	options := []adaptation.Option{
		adaptation.WithSocketPath(p.cfg.Socket), adaptation.WithPluginPath(p.cfg.PluginDir),
		adaptation.WithPluginConfigPath(p.cfg.ConfigDir), adaptation.WithMetrics(counter{heard: &p.heard}),
	}
	if p.cfg.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	var err error
	if p.nri, err = adaptation.New(rt.Name, rt.Version, p.synchronize, p.unsolicited, options...); err != nil {
		return fmt.Errorf("setting up NRI: %w", err)
	}
	p.extendSandboxes(rt)
	p.extendContainers(rt)
	rt.Recover = p.recover
	rt.Limits = func(change cri.ChangeLimits) {
		p.change = change
		if p.author.Limits != nil {
			p.author.Limits(change)
		}
	}
	return nil
}

// Close disconnects and ends the plugins, and removes the socket if it is this runtime's.
// It must not be called concurrently with anything else. A second call does nothing.
func (p *Plugins) Close() {
	if p.nri != nil {
		p.nri.Stop()
	}
}

// recover is the runtime's Recover.
func (p *Plugins) recover(ctx context.Context, sandboxes []*cri.Sandbox, containers []*cri.Container) error {
	if p.author.Recover != nil {
		if err := p.author.Recover(ctx, sandboxes, containers); err != nil {
			return err
		}
	}
	for _, s := range sandboxes {
		p.knowPod(s).stopped = !s.Ready
	}
	for _, c := range containers {
		k := p.know(c)
		k.said = created
		switch {
		case c.Exit != nil:
			k.said = stopped
		case !c.StartedAt.IsZero():
			k.said = started
		}
	}
	return p.start()
}

func (p *Plugins) start() error {
	if err := CheckSocket(p.cfg.Socket); err != nil {
		return err
	}
	dir, err := os.ReadDir(p.cfg.PluginDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for NRI plugins: %w", err)
	}
	p.heard.Store(int64(len(dir))) // the real count comes with the first call to the plugins
	if err := p.nri.Start(); err != nil {
		return fmt.Errorf("starting NRI: %w", err)
	}
	if p.cfg.Socket == "" {
		return nil
	}
	return os.Chmod(p.cfg.Socket, 0o600)
}

// CheckSocket returns the reason why no plugin could connect at Config.Socket, and changes
// nothing. Extend's Recover makes the same check; a caller can make it before it has much
// to take down. A socket that another runtime uses is fault.AlreadyExists, because NRI's
// package would remove it, and an impossible path fault.Invalid.
func CheckSocket(path string) error {
	if path == "" {
		return nil
	}
	if err := checkSocket(path); err != nil {
		return fmt.Errorf("the socket for NRI plugins %q: %w", path, err)
	}
	return nil
}

func checkSocket(path string) error {
	if !filepath.IsAbs(path) {
		return fault.Invalid.Errorf("want an absolute path")
	}
	if len(path) > sockfile.MaxPath {
		return fault.Invalid.Errorf("the path has %d bytes, and %d are the most: choose a shorter path", len(path), sockfile.MaxPath)
	}
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return checkParent(path)
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return fault.Invalid.Errorf("what exists there is not a socket (%v): choose another path", fi.Mode())
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // left by a killed runtime
	}
	if err == nil {
		_ = conn.Close()
	}
	return fault.AlreadyExists.Errorf("another runtime uses it: stop that, or choose another path")
}

// checkParent checks that the directory of a path exists or can be made below one that
// does.
func checkParent(path string) error {
	dir := filepath.Dir(path)
	switch fi, err := os.Stat(dir); {
	case (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) && dir != path:
		return checkParent(dir)
	case err != nil:
		return err
	case !fi.IsDir():
		return fault.Invalid.Errorf("%q is not a directory: choose another path", dir)
	}
	return nil
}

// counter records the number of plugins, and none of the other metrics.
type counter struct{ heard *atomic.Int64 }

func (c counter) UpdatePluginCount(n int)                         { c.heard.Store(int64(n)) }
func (counter) RecordPluginInvocation(string, string, error)      {}
func (counter) RecordPluginLatency(string, string, time.Duration) {}
func (counter) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {
}
