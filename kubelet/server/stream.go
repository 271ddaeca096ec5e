package server

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// The runtime serves streams itself: it answers Exec, Attach and PortForward with a
// URL, and the kubelet passes the client's connection on to it, whatever protocol the
// two negotiate.

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	id, err := s.running(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	resp, err := s.config.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: q["command"],
		Stdin: wants(q, "input", "stdin"), Stdout: wants(q, "output", "stdout"), Stderr: wants(q, "error", "stderr"), Tty: wants(q, "tty"),
	})
	s.pass(w, r, resp.GetUrl(), err)
}

func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	id, err := s.running(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	resp, err := s.config.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: id,
		Stdin:       wants(q, "input", "stdin"), Stdout: wants(q, "output", "stdout"), Stderr: wants(q, "error", "stderr"), Tty: wants(q, "tty"),
	})
	s.pass(w, r, resp.GetUrl(), err)
}

func (s *server) portForward(w http.ResponseWriter, r *http.Request) {
	p := s.config.Pod(r.Context(), r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		http.Error(w, fmt.Sprintf("Pod %q is not here", r.PathValue("namespace")+"/"+r.PathValue("pod")), http.StatusNotFound)
		return
	}
	id, err := s.config.Sandbox(r.Context(), p.UID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	request := &runtimeapi.PortForwardRequest{PodSandboxId: id}
	for _, text := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		port, err := strconv.ParseInt(text, 10, 32)
		if err != nil || port < 1 || port > 65535 {
			http.Error(w, fmt.Sprintf("port %q is not between 1 and 65535", text), http.StatusBadRequest)
			return
		}
		request.Port = append(request.Port, int32(port))
	}
	resp, err := s.config.Runtime.PortForward(r.Context(), request)
	s.pass(w, r, resp.GetUrl(), err)
}

// wants reads a flag under its kubelet and its CRI name.
func wants(q url.Values, names ...string) bool {
	for _, name := range names {
		if v := q.Get(name); v == "1" || v == "true" {
			return true
		}
	}
	return false
}

// running returns the ID of the running container that the request names.
func (s *server) running(r *http.Request) (string, error) {
	name := r.PathValue("namespace") + "/" + r.PathValue("pod")
	p := s.config.Pod(r.Context(), r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		return "", fault.NotFound.Errorf("Pod %q is not here", name)
	}
	for _, list := range pod.Statuses(&p.Status) {
		for _, c := range list {
			if c.Name == r.PathValue("container") && c.State.Running != nil {
				_, id, _ := strings.Cut(c.ContainerID, "://")
				return id, nil
			}
		}
	}
	return "", fault.NotFound.Errorf("Pod %q has no running container %q", name, r.PathValue("container"))
}

// pass hands the connection over to the runtime's streaming server.
func (s *server) pass(w http.ResponseWriter, r *http.Request, location string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	to, err := url.Parse(location)
	if err != nil {
		http.Error(w, fmt.Sprintf("the runtime answered %q: %v", location, err), http.StatusInternalServerError)
		return
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL, p.Out.Host = to, to.Host
	}}
	proxy.ServeHTTP(w, r)
}
