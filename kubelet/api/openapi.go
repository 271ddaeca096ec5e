package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/kubelet/api/openapi"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// documents caches the OpenAPI documents that have been requested.
type documents struct {
	mu   sync.Mutex
	made map[string]*document
}

type document struct {
	once sync.Once
	data []byte
	hash string
	err  error
}

// get returns the document of a path, which must name a group and version that has
// kinds.
func (d *documents) get(path string, gv schema.GroupVersion) *document {
	d.mu.Lock()
	have := d.made[path]
	if have == nil {
		have = &document{}
		d.made[path] = have
	}
	d.mu.Unlock()
	have.once.Do(func() {
		have.data, have.err = json.Marshal(openapi.Document("/"+path, gv, kindsOf(gv), refusedOf(gv)))
		sum := sha256.Sum256(have.data)
		have.hash = hex.EncodeToString(sum[:])
	})
	return have
}

func kindsOf(gv schema.GroupVersion) []*object.Kind {
	var list []*object.Kind
	for _, k := range object.Kinds() {
		if k.GroupVersion() == gv {
			list = append(list, k)
		}
	}
	return list
}

func refusedOf(gv schema.GroupVersion) []object.Refused {
	return slices.DeleteFunc(object.RefusedKinds(), func(r object.Refused) bool { return r.GroupVersion() != gv })
}

// openapiPaths returns the paths of the documents.
func openapiPaths() map[string]schema.GroupVersion {
	paths := map[string]schema.GroupVersion{}
	for _, gv := range groupVersions() {
		path := "apis/" + gv.String()
		if gv.Group == "" {
			path = "api/" + gv.Version
		}
		if gv != metricsVersion && gv != eventsv1.SchemeGroupVersion {
			paths[path] = gv
		}
	}
	return paths
}

// openapiIndex lists the documents. Their URLs have no hash, because computing it would
// need all documents for any request: clients revalidate instead.
func (s *Server) openapiIndex(w http.ResponseWriter, _ *http.Request) error {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for path := range openapiPaths() {
		paths[path] = entry{"/openapi/v3/" + path}
	}
	return s.sendJSON(w, map[string]any{"paths": paths})
}

func (s *Server) openapiDocument(w http.ResponseWriter, r *http.Request) error {
	gv, ok := openapiPaths()[r.PathValue("path")]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{}, r.PathValue("path"))
	}
	d := s.openapi.get(r.PathValue("path"), gv)
	if d.err != nil {
		return d.err
	}
	w.Header().Set("Etag", `"`+d.hash+`"`)
	if r.Header.Get("If-None-Match") == `"`+d.hash+`"` {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	s.write(w, http.StatusOK, mediaJSON, d.data)
	return nil
}
