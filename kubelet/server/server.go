// Package server is the kubelet's HTTP API on a unix socket that only root can open:
// /healthz, /pods, /runningpods, /stats/summary, /containerLogs, /exec, /attach and
// /portForward of the upstream kubelet. It has no authentication of its own and relies
// on the socket's mode.
package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/rpc"
)

// Config configures a server. All functions must be safe for concurrent use.
type Config struct {
	// Socket is the path of the unix socket. A stale one is replaced.
	Socket string
	// NodeName is the node's name. NodeID is the value of pod.LabelNode on the node's
	// containers and sandboxes.
	NodeName, NodeID string
	// Pods returns all Pods with their statuses.
	Pods func() []*v1.Pod
	// Pod returns the current state of a Pod, or nil. A client that asks for a
	// container that it has just seen running must find it.
	Pod func(ctx context.Context, namespace, name string) *v1.Pod
	// Healthy returns the reason why the node is not healthy, or nil.
	Healthy func(context.Context) error
	// LogDir is the directory of all Pods' logs.
	LogDir string
	// Ended returns a channel that is closed when the container instance has ended, or
	// when ctx ends.
	Ended func(ctx context.Context, pod types.UID, container string, attempt uint32) <-chan struct{}
	// Runtime provides the streaming URLs of exec, attach and port-forward. Sandbox
	// returns the Pod's sandbox.
	Runtime runtimeapi.RuntimeServiceClient
	Sandbox func(ctx context.Context, pod types.UID) (id string, err error)
	Logger  *slog.Logger // nil discards
}

// Serve serves until ctx ends, and then returns nil.
func Serve(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := rpc.Listen(c.Socket)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler(c), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler(c Config) http.Handler {
	s := &server{config: c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/", s.pods)
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, method := range []string{"GET", "POST"} { // WebSocket and SPDY
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
	}
	mux.HandleFunc("GET /runningpods", s.runningPods)
	return mux
}

type server struct {
	config Config
	meter  meter
}

func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	if err := s.config.Healthy(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	s.write(w, []byte("ok"))
}

func (s *server) pods(w http.ResponseWriter, _ *http.Request) { s.list(w, s.config.Pods()) }

func (s *server) runningPods(w http.ResponseWriter, _ *http.Request) {
	s.list(w, slices.DeleteFunc(s.config.Pods(), func(p *v1.Pod) bool { return p.Status.Phase != v1.PodRunning }))
}

// list sends the Pods sorted by name.
func (s *server) list(w http.ResponseWriter, pods []*v1.Pod) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	slices.SortFunc(list.Items, func(a, b v1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	data, err := json.Marshal(list)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, data)
}

func (s *server) write(w http.ResponseWriter, data []byte) {
	if _, err := w.Write(data); err != nil {
		s.config.Logger.Debug("answering a client that left", "err", err)
	}
}
