package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Requests for what the kubelet serves are forwarded to it, as by an API server: logs,
// exec, attach and port-forward (kubelet server, "/containerLogs" and so on).

// pod returns the Pod of a request.
func (s *Server) pod(t target) (*v1.Pod, error) {
	o, err := s.config.Store.Get(t.kind, t.namespace, t.name)
	if err != nil {
		return nil, notFound(t)
	}
	return o.(*v1.Pod), nil
}

// container returns the container that a request is for: the one that it names, or the
// only one.
func container(p *v1.Pod, name string) (string, error) {
	if name == "" {
		if len(p.Spec.Containers) != 1 {
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", p.Name, strings.Join(pod.Names(p), ", ")))
		}
		return p.Spec.Containers[0].Name, nil
	}
	for _, have := range pod.Names(p) {
		if have == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s: it has %s", name, p.Name, strings.Join(pod.Names(p), ", ")))
}

func (s *Server) podLog(w http.ResponseWriter, r *http.Request, t target) error {
	if r.Method != http.MethodGet {
		return notAllowed(r, t)
	}
	p, err := s.pod(t)
	if err != nil {
		return err
	}
	name, err := container(p, r.URL.Query().Get("container"))
	if err != nil {
		return err
	}
	return s.pass(w, r, "containerLogs", p.Namespace, p.Name, name)
}

// podStream passes a connection to the kubelet for exec, attach or port-forward.
func (s *Server) podStream(w http.ResponseWriter, r *http.Request, t target) error {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return notAllowed(r, t)
	}
	p, err := s.pod(t)
	if err != nil {
		return err
	}
	if t.subresource == "portforward" {
		return s.pass(w, r, "portForward", p.Namespace, p.Name)
	}
	name, err := container(p, r.URL.Query().Get("container"))
	if err != nil {
		return err
	}
	return s.pass(w, r, t.subresource, p.Namespace, p.Name, name)
}

// nodeProxy forwards any request to the kubelet of the node.
func (s *Server) nodeProxy(w http.ResponseWriter, r *http.Request, t target) error {
	if _, err := s.config.Store.Get(t.kind, "", t.name); err != nil {
		return notFound(t)
	}
	return s.pass(w, r, strings.Split(strings.TrimPrefix(strings.TrimPrefix(t.subresource, "proxy"), "/"), "/")...)
}

// pass forwards the request to a path of the kubelet, with its query.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, path ...string) error {
	to := (&url.URL{Scheme: "http", Host: "kubelet", Path: "/"}).JoinPath(path...)
	to.RawQuery = r.URL.RawQuery
	var failed error
	proxy := &httputil.ReverseProxy{
		Transport: s.config.Kubelet, FlushInterval: -1,
		Rewrite:        func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = to, to.Host },
		ModifyResponse: refusal,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			if failed = err; !errors.As(err, new(apierrors.APIStatus)) {
				failed = apierrors.NewServiceUnavailable("asking the kubelet: " + err.Error())
			}
		},
	}
	proxy.ServeHTTP(w, r)
	return failed
}

// refusal converts an error response of the kubelet, which is plain text that clients
// would not show, into an error whose text reaches the user.
func refusal(answer *http.Response) error {
	if answer.StatusCode < http.StatusBadRequest {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return err
	}
	status := apierrors.NewGenericServerResponse(answer.StatusCode, "", schema.GroupResource{}, "", "", 0, false)
	status.ErrStatus.Message, status.ErrStatus.Details = strings.TrimSpace(string(text)), nil
	return status
}

// maxRefusal is how much of a kubelet's error is read, in bytes.
const maxRefusal = 4096
