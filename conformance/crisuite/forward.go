package crisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func portForwardRules() []rule {
	return []rule{
		must("CRI-FORWARD-001", "forwards connections to a port of a Pod",
			"PortForward", "PortForward prepares a streaming endpoint to forward ports from a PodSandbox.", checkForward, PortForward, Isolation),
		heavy(facto("CRI-FORWARD-002", "carries on the answer when the client has closed its side",
			"kubectl port-forward", "A connection of which one side is closed still carries what comes from the other.", checkHalfClose, PortForward, Isolation)),
		heavy(facto("CRI-FORWARD-003", "goes on behind a connection to a port where nobody listens",
			"kubectl port-forward", "One connection that fails is no reason to end the others.", checkForwardSurvives, PortForward, Isolation)),
		facto("CRI-FORWARD-004", "reaches a server that listens on localhost of the Pod alone",
			"kubectl port-forward", "Ports are forwarded to the Pod's localhost.", checkForwardLocal, PortForward, Isolation),
		facto("CRI-FORWARD-006", "reaches a server that listens on the Pod's localhost of IPv6 alone",
			"kubectl port-forward", "Ports are forwarded to the Pod's localhost, in whichever family a server listens there.", checkForwardIPv6, PortForward, Isolation),
		facto("CRI-FORWARD-005", "refuses to forward from a sandbox that never was",
			"errors", "The kubelet parses NotFound alone of the codes that say that something is gone.", checkForwardNowhere, PortForward),
	}
}

// forward forwards a port of the host to a port of the Pod.
func (p *pod) forward(ctx context.Context, port int) (address string, stop func(), err error) {
	resp, err := p.s.Runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{int32(port)}})
	if err != nil {
		return "", nil, fmt.Errorf("PortForward: %w", err)
	}
	u, err := url.Parse(resp.GetUrl())
	if err != nil {
		return "", nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return "", nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	end, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, end, ready, io.Discard, io.Discard)
	if err != nil {
		return "", nil, err
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		return "", nil, fmt.Errorf("forwarding a port: %w", err)
	case <-time.After(streamTime):
		close(end)
		return "", nil, errors.New("the port's stream does not open")
	}
	ports, err := f.GetPorts()
	if err != nil {
		close(end)
		return "", nil, err
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(ports[0].Local)), func() { close(end); p.s.in.Log.Debug("the port is closed", "err", <-done) }, nil
}

// listening starts a container that listens, and returns its Pod.
func (s *subject) listening(ctx context.Context, verb string) (*pod, error) {
	p, err := s.pod(ctx)
	if err != nil {
		return nil, err
	}
	b, err := p.start(ctx, verb)
	if err != nil {
		return nil, err
	}
	return p, b.says(ctx, "ing on ")
}

// forwardable starts a web server, which says "forwarded", and returns its Pod and port.
func (s *subject) forwardable(ctx context.Context) (p *pod, port int, err error) {
	if port, err = s.podPort(); err != nil {
		return nil, 0, err
	}
	p, err = s.listening(ctx, fmt.Sprintf("serve --port %d --text forwarded", port))
	return p, port, err
}

func checkForward(ctx context.Context, s *subject) error {
	p, port, err := s.forwardable(ctx)
	if err != nil {
		return err
	}
	address, stop, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	defer stop()
	for range 3 {
		if err := answers(ctx, address, "forwarded"); err != nil {
			return err
		}
	}
	return nil
}

// podPort returns a port for a server in a Pod, which may be on the host's network.
func (s *subject) podPort() (int, error) {
	if s.network {
		return 8080, nil
	}
	return freePort()
}

func checkHalfClose(ctx context.Context, s *subject) error {
	port, err := s.podPort()
	if err != nil {
		return err
	}
	p, err := s.listening(ctx, fmt.Sprintf("count %d", port))
	if err != nil {
		return err
	}
	address, stop, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(streamTime / 2)); err != nil {
		return err
	}
	const sent = 100_000
	if _, err := conn.Write(make([]byte, sent)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if want := fmt.Sprintf("%d bytes, <nil>\n", sent); err == nil && string(got) != want {
		return fmt.Errorf("a server that answers at the end of what it reads: got %q, want %q", got, want)
	}
	return err
}

func checkForwardSurvives(ctx context.Context, s *subject) error {
	port, err := s.podPort()
	if err != nil {
		return err
	}
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	address, stop, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	defer stop()
	if body, err := fetch(ctx, address); err == nil {
		return fmt.Errorf("a port where nobody listens answers %q", body)
	}
	b, err := p.start(ctx, fmt.Sprintf("serve --port %d --text later", port))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "serving on"); err != nil {
		return err
	}
	again, stopAgain, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	defer stopAgain()
	return answers(ctx, again, "later")
}

func checkForwardLocal(ctx context.Context, s *subject) error {
	return s.forwardsTo(ctx, "127.0.0.1")
}

func checkForwardIPv6(ctx context.Context, s *subject) error {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return conformance.NotApplicable("this machine has no IPv6: %v", err)
	}
	return errors.Join(l.Close(), s.forwardsTo(ctx, "::1"))
}

// forwardsTo returns nil when a server on only this address of the Pod is reached.
func (s *subject) forwardsTo(ctx context.Context, listening string) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	port, err := s.podPort()
	if err != nil {
		return err
	}
	b, err := p.start(ctx, fmt.Sprintf("serve --address %s --port %d --text local", listening, port))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "serving on"); err != nil {
		return err
	}
	address, stop, err := p.forward(ctx, port)
	if err != nil {
		return err
	}
	defer stop()
	return answers(ctx, address, "local")
}

func checkForwardNowhere(ctx context.Context, s *subject) error {
	_, err := s.Runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: unknownID, Port: []int32{80}})
	return notFound("PortForward", err)
}
