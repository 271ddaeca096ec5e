package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// maxOutput is how much of a probe's output is kept, in bytes.
const maxOutput = 10 << 10

// redirected is the prefix of the message of a probe that passed because it was
// redirected to another host, which says little about the container.
const redirected = "redirected to another host: "

// checker runs single probes of one container.
type checker struct {
	exec      Exec
	id        string
	address   string
	container *v1.Container
}

// run probes once. The error is one of the probing, not of the container.
func (c *checker) run(ctx context.Context, h *v1.ProbeHandler, timeout time.Duration) (pod.Outcome, string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case h.Exec != nil:
		return c.runExec(ctx, h.Exec, timeout)
	case h.HTTPGet != nil:
		return c.runHTTP(ctx, h.HTTPGet)
	case h.TCPSocket != nil:
		return c.runTCP(ctx, h.TCPSocket)
	case h.GRPC != nil:
		return c.runGRPC(ctx, h.GRPC)
	}
	return pod.Success, "", nil
}

func (c *checker) runExec(ctx context.Context, e *v1.ExecAction, timeout time.Duration) (pod.Outcome, string, error) {
	code, output, err := c.exec(ctx, c.id, e.Command, timeout)
	output = output[:min(len(output), maxOutput)]
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return pod.Failure, fmt.Sprintf("the command took longer than %s", timeout), nil
	case err != nil:
		return pod.Pending, "", err
	case code != 0:
		return pod.Failure, fmt.Sprintf("the command ended with code %d: %s", code, strings.TrimSpace(output)), nil
	}
	return pod.Success, output, nil
}

func (c *checker) runHTTP(ctx context.Context, get *v1.HTTPGetAction) (pod.Outcome, string, error) {
	host, err := c.hostPort(get.Host, get.Port)
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	path, query, _ := strings.Cut(get.Path, "?")
	u := url.URL{Scheme: "http", Host: host, Path: path, RawQuery: query}
	if get.Scheme != "" {
		u.Scheme = strings.ToLower(string(get.Scheme))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return pod.Pending, "", err
	}
	request.Header.Set("User-Agent", "kube-probe/nodekit")
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			request.Host = h.Value
			continue
		}
		request.Header.Add(h.Name, h.Value)
	}
	resp, err := client().Do(request)
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return pod.Failure, fmt.Sprintf("%s answered %s", u.String(), resp.Status), nil
	}
	if resp.StatusCode >= 300 { // client followed those on the same host
		return pod.Success, redirected + resp.Header.Get("Location"), nil
	}
	return pod.Success, string(body), nil
}

// client follows redirects on the same host. A redirect to another host is an answer
// like any other below 400.
func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}, //nolint:gosec // the Pod API has no place for a probe's certificates
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

func (c *checker) runTCP(ctx context.Context, t *v1.TCPSocketAction) (pod.Outcome, string, error) {
	host, err := c.hostPort(t.Host, t.Port)
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	return pod.Success, "", conn.Close()
}

func (c *checker) runGRPC(ctx context.Context, g *v1.GRPCAction) (pod.Outcome, string, error) {
	host := net.JoinHostPort(c.address, strconv.Itoa(int(g.Port)))
	conn, err := grpc.NewClient("passthrough:///"+host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return pod.Pending, "", err
	}
	defer conn.Close()
	request := &grpc_health_v1.HealthCheckRequest{}
	if g.Service != nil {
		request.Service = *g.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, request)
	if err != nil {
		return pod.Failure, err.Error(), nil
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return pod.Failure, fmt.Sprintf("service %q is %s", request.Service, resp.Status), nil
	}
	return pod.Success, "", nil
}

// hostPort resolves a probe's host and its port, which may be named.
func (c *checker) hostPort(host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = c.address
	}
	if port.Type == intstr.Int {
		return net.JoinHostPort(host, strconv.Itoa(port.IntValue())), nil
	}
	for _, p := range c.container.Ports {
		if p.Name == port.StrVal {
			return net.JoinHostPort(host, strconv.Itoa(int(p.ContainerPort))), nil
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return net.JoinHostPort(host, strconv.Itoa(n)), nil
	}
	return "", fault.NotFound.Errorf("the container has no port named %q", port.StrVal)
}
