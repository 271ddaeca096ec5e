package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// attachment describes how the sandbox is connected. It follows from the record, so it
// can be undone without knowing whether it was done.
func (r *Runtime) attachment(s *cri.Sandbox) cniruntime.Attachment {
	meta := s.Config.GetMetadata()
	a := cniruntime.Attachment{
		ContainerID: s.ID,
		NetNS:       filepath.Join(r.sandboxDir(s.ID), "net"),
		IfName:      ifName,
		Pod:         call.Pod{Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid()},
	}
	for _, p := range s.Config.GetPortMappings() {
		if p.HostPort <= 0 {
			continue
		}
		a.PortMappings = append(a.PortMappings, cniruntime.PortMapping{
			HostPort: int(p.HostPort), ContainerPort: int(p.ContainerPort),
			Protocol: portProtocol(p.Protocol.String()), HostIP: p.HostIp,
		})
	}
	return a
}

func portProtocol(name string) string {
	switch name {
	case "UDP":
		return "udp"
	case "SCTP":
		return "sctp"
	}
	return "tcp"
}

// attachNetwork connects the sandbox, while prepare creates its namespaces.
func (r *Runtime) attachNetwork(ctx context.Context, s *cri.Sandbox, prepare func() error) error {
	if r.cfg.Network == nil {
		return fault.Unavailable.Errorf("no network is configured: only Pods on the host's network can run")
	}
	a := r.attachment(s)
	var err error
	if a.CapabilityArgs, err = capabilityArgs(s.Config); err != nil {
		return err
	}
	var prepared error
	result, err := r.cfg.Network.AttachWith(ctx, a, func() error {
		prepared = prepare()
		return prepared
	})
	switch {
	case prepared != nil:
		return fmt.Errorf("making the namespaces: %w", err)
	case err != nil:
		return fmt.Errorf("connecting to the network: %w", blamed(err))
	}
	for _, ip := range result.IPs {
		s.IPs = append(s.IPs, ip.Address.IP.String())
	}
	if len(s.IPs) == 0 {
		return fault.FailedPrecondition.Errorf("the network gave the sandbox no address")
	}
	return nil
}

// blamed gives an error of a CNI plugin the kind of the SDK's answer if it is not the
// runtime's fault. Code 7 is also used for faults of the network configuration; the Pod
// is at fault for its own part of that, the key runtimeConfig.
func blamed(err error) error {
	switch {
	case fault.Of(err) != fault.Internal:
	case errors.Is(err, fault.Invalid) && strings.Contains(err.Error(), "runtimeConfig."):
		return fault.Invalid.Wrap(err)
	case errors.Is(err, fault.AlreadyExists): // a host port that another Pod has
		return fault.FailedPrecondition.Wrap(err)
	case errors.Is(err, fault.Exhausted):
		return fault.Exhausted.Wrap(err)
	}
	return err
}

func (r *Runtime) detachNetwork(ctx context.Context, s *cri.Sandbox) error {
	if r.cfg.Network == nil || hostNetwork(s) {
		return nil
	}
	if err := r.cfg.Network.Detach(ctx, r.attachment(s)); err != nil {
		return fmt.Errorf("disconnecting from the network: %w", err)
	}
	return nil
}

// networkPatience is how long the runtime's status waits for the plugins' status: less
// than a kubelet waits for the runtime, which would otherwise appear dead.
const networkPatience = 3 * time.Second

func (r *Runtime) networkReady(ctx context.Context) error {
	if r.cfg.Network == nil {
		return fault.Unavailable.Errorf("no network is configured: only Pods on the host's network can run")
	}
	ctx, cancel := context.WithTimeout(ctx, networkPatience)
	defer cancel()
	return r.cfg.Network.Status(ctx)
}

// CollectWithin limits the garbage collection of the network at start, before which the
// runtime does not serve.
const CollectWithin = 30 * time.Second

// collectNetwork frees what the network holds for sandboxes that no longer exist. A
// stopped sandbox counts as existing until its record is removed, which costs nothing
// once it is detached. What cannot be freed now must not prevent the start: it is logged,
// and the next start tries again.
func (r *Runtime) collectNetwork(ctx context.Context, sandboxes []*cri.Sandbox) {
	if r.cfg.Network == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, CollectWithin)
	defer cancel()
	var valid []cniruntime.Attachment
	for _, s := range sandboxes {
		if !hostNetwork(s) {
			valid = append(valid, r.attachment(s))
		}
	}
	switch err := r.cfg.Network.GC(ctx, valid); {
	case errors.Is(err, fault.Unavailable): // often, there is no configuration yet
		r.cfg.Logger.Info("the network's garbage is not collected", "err", err)
	case err != nil:
		r.cfg.Logger.Error("the network's garbage is not collected", "err", err)
	}
}

// portForward connects conn to a port on the sandbox's loopback.
func (r *Runtime) portForward(ctx context.Context, s *cri.Sandbox, port int32, conn io.ReadWriteCloser) error {
	defer conn.Close()
	to, err := r.dialInside(ctx, s, port)
	if err != nil {
		return fault.Unavailable.Errorf("connecting to port %d of the sandbox: %w", port, err)
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close(); _ = to.Close() })()
	answered := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, to)
		_ = conn.Close() // the client may continue to send after the server has ended
		answered <- err
	}()
	up := &moved{to: to}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if _, err := io.Copy(up, conn); err == nil {
			_ = to.(*net.TCPConn).CloseWrite() // the server may answer after our end
		}
		_, _ = io.Copy(io.Discard, conn) // nobody reads it any more
	}()
	select {
	case <-asked: // the server may have answered even if it stopped reading early
		return <-answered
	case err = <-answered:
	}
	if err != nil {
		return err
	}
	up.rest(asked)
	return nil
}

// moved counts the bytes written through it.
type moved struct {
	to    io.Writer
	bytes atomic.Int64
}

func (m *moved) Write(p []byte) (int, error) {
	n, err := m.to.Write(p)
	m.bytes.Add(int64(n))
	return n, err
}

// halfOpenPause is how long a client may send nothing after the server has ended. A
// client that closes its side only once everything has ended would wait forever.
const halfOpenPause = 10 * time.Second

// rest waits until over is closed, or no bytes move any more.
func (m *moved) rest(over <-chan struct{}) {
	pause := time.NewTicker(halfOpenPause)
	defer pause.Stop()
	for before := m.bytes.Load(); ; {
		select {
		case <-over:
			return
		case <-pause.C:
			now := m.bytes.Load()
			if now == before {
				return
			}
			before = now
		}
	}
}

func (r *Runtime) dialInside(ctx context.Context, s *cri.Sandbox, port int32) (conn net.Conn, err error) {
	dial := func() error {
		var d net.Dialer
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); err == nil {
				return nil
			}
		}
		return err
	}
	if hostNetwork(s) {
		return conn, dial()
	}
	// A literal address is dialled on the calling goroutine, whose thread is the
	// one inside the namespace.
	return conn, netns.Do(filepath.Join(r.sandboxDir(s.ID), "net"), dial)
}
