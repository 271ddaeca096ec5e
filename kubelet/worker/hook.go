package worker

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// target identifies the container of a hook.
type target struct{ id, address string }

// hook runs a lifecycle hook to its end, or until ctx ends.
func (w *worker) hook(ctx context.Context, c *v1.Container, h *v1.LifecycleHandler, t target) error {
	switch {
	case h.Exec != nil:
		return w.execHook(ctx, h.Exec.Command, t.id)
	case h.HTTPGet != nil:
		return httpHook(ctx, c, h.HTTPGet, t.address)
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fault.Invalid.Errorf("the hook names no action that nodekit knows")
}

func (w *worker) execHook(ctx context.Context, command []string, id string) error {
	request := &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command}
	if deadline, ok := ctx.Deadline(); ok {
		request.Timeout = max(int64(time.Until(deadline)/time.Second), 1)
	}
	resp, err := w.config.Runtime.ExecSync(ctx, request)
	if err != nil {
		return fmt.Errorf("running %q: %w", strings.Join(command, " "), err)
	}
	if resp.ExitCode != 0 {
		return fault.FailedPrecondition.Errorf("%q ended with code %d: %s", strings.Join(command, " "), resp.ExitCode, resp.Stderr)
	}
	return nil
}

// httpHook sends the request; any status below 400 is success.
func httpHook(ctx context.Context, c *v1.Container, get *v1.HTTPGetAction, address string) error {
	port, err := portNumber(get.Port, c)
	if err != nil {
		return err
	}
	if get.Host != "" {
		address = get.Host
	}
	path, query, _ := strings.Cut(get.Path, "?")
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(address, strconv.Itoa(port)), Path: path, RawQuery: query}
	if get.Scheme != "" {
		u.Scheme = strings.ToLower(string(get.Scheme))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	resp, err := hookClient().Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10)); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fault.FailedPrecondition.Errorf("%s answered %s", u.String(), resp.Status)
	}
	return nil
}

// portNumber resolves a port that may be named in the container's spec.
func portNumber(port intstr.IntOrString, c *v1.Container) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return n, nil
	}
	return 0, fault.NotFound.Errorf("container %q has no port named %q", c.Name, port.StrVal)
}

// hookClient sends hook requests: certificates are not verified, as the Pod API
// has no place for them, and no connection is kept.
func hookClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // what a Pod's own endpoint serves cannot be verified
	}}
}
