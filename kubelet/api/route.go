package api

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// maxBody is the maximum size of a request body in bytes, the same as that of a
// manifest file.
const maxBody = 10 << 20

// target is the object or the collection that a request is for.
type target struct {
	kind                         *object.Kind
	namespace, name, subresource string
}

// handler serves one request. An error becomes a Status.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { s.write(w, http.StatusOK, "text/plain", []byte("ok")) })
	}
	handle := func(pattern string, h handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	handle("GET /version", s.version)
	handle("GET /openapi/v3", s.openapiIndex)
	handle("GET /openapi/v3/{path...}", s.openapiDocument)
	handle("GET /api", s.discoverCore)
	handle("GET /apis", s.discoverGroups)
	handle("GET /api/v1", s.discoverResources)
	handle("GET /apis/{group}", s.discoverGroup)
	handle("GET /apis/{group}/{version}", s.discoverResources)
	for path, answer := range s.questions() {
		handle("POST /apis/"+path, answer)
	}
	handle("/api/v1/", s.resource)
	handle(newEventsPath, s.newEvents)
	handle("/apis/metrics.k8s.io/v1beta1/", s.metrics)
	handle("/apis/{group}/{version}/", s.resource)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "the node serves nothing at "+r.URL.Path, 0, true)
	})
	return mux
}

// resource serves a resource that has a kind.
func (s *Server) resource(w http.ResponseWriter, r *http.Request) error {
	gv, parts := split(r.URL.Path)
	namespace := ""
	if len(parts) >= 3 && parts[0] == "namespaces" && !namespaceSubresource(parts[2]) {
		namespace, parts = parts[1], parts[2:]
	}
	for len(parts) < 3 {
		parts = append(parts, "")
	}
	t := target{namespace: namespace, name: parts[1], subresource: strings.Join(parts[2:], "/")}
	if t.kind = find(gv, parts[0]); t.kind == nil {
		return s.refuse(w, r, gv.WithResource(parts[0]), parts[1])
	}
	if t.kind.Namespaced && t.name != "" && namespace == "" || !t.kind.Namespaced && namespace != "" {
		return apierrors.NewBadRequest("the path is not that of " + t.kind.Resource + ": see whether they are in a namespace")
	}
	return s.serve(w, r, t)
}

func namespaceSubresource(name string) bool { return name == "status" || name == "finalize" }

// split splits a path into the group and version, and the rest.
func split(path string) (schema.GroupVersion, []string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		return schema.GroupVersion{Version: parts[1]}, parts[2:]
	}
	return schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:]
}

func find(gv schema.GroupVersion, resource string) *object.Kind {
	for _, k := range object.Kinds() {
		if k.GroupVersion() == gv && k.Resource == resource {
			return k
		}
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, t target) error {
	if serve, ok := s.subresources(t)[t.subresource]; ok {
		return serve(w, r, t)
	}
	return apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, t.kind.GroupResource(), t.name, "there is no such subresource: "+t.subresource, 0, true)
}

type subresource func(w http.ResponseWriter, r *http.Request, t target) error

// subresources returns the handlers of a kind's subresources; "" is the object itself,
// or the collection.
func (s *Server) subresources(t target) map[string]subresource {
	all := map[string]subresource{"": s.main}
	if t.kind.Status && t.name != "" {
		all["status"] = s.part
	}
	switch t.kind.Kind {
	case "Pod":
		all["ephemeralcontainers"], all["resize"] = s.part, s.part
		all["log"], all["exec"], all["attach"], all["portforward"] = s.podLog, s.podStream, s.podStream, s.podStream
		all["eviction"], all["binding"] = s.evict, s.bind
	case "Node":
		if strings.HasPrefix(t.subresource, "proxy/") || t.subresource == "proxy" {
			all[t.subresource] = s.nodeProxy
		}
	case "Namespace":
		all["finalize"] = s.part
	}
	return all
}

// main serves an object or a collection.
func (s *Server) main(w http.ResponseWriter, r *http.Request, t target) error {
	if _, err := s.accepted(r); err != nil { // before anything is changed
		return err
	}
	collection := t.name == ""
	switch {
	case r.Method == http.MethodGet && isWatch(r):
		return s.watch(w, r, t)
	case r.Method == http.MethodGet && collection:
		return s.list(w, r, t)
	case r.Method == http.MethodPost && collection:
		return s.create(w, r, t)
	case r.Method == http.MethodDelete && collection && (t.namespace != "" || !t.kind.Namespaced):
		return s.deleteCollection(w, r, t)
	case r.Method == http.MethodDelete && !collection:
		return s.delete(w, r, t)
	case !collection:
		return s.part(w, r, t)
	}
	return notAllowed(r, t)
}

// part reads or changes an object, or a subresource that is a part of it.
func (s *Server) part(w http.ResponseWriter, r *http.Request, t target) error {
	if _, err := s.accepted(r); err != nil { // before anything is changed
		return err
	}
	switch r.Method {
	case http.MethodGet:
		return s.get(w, r, t)
	case http.MethodPut:
		return s.update(w, r, t)
	case http.MethodPatch:
		return s.patch(w, r, t)
	}
	return notAllowed(r, t)
}

func notAllowed(r *http.Request, t target) error {
	return apierrors.NewMethodNotSupported(t.kind.GroupResource(), strings.ToLower(r.Method))
}

// isWatch reports whether a GET asks for a watch.
func isWatch(r *http.Request) bool {
	v := r.URL.Query().Get("watch")
	return v == "true" || v == "1"
}
