package api

import (
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// KubernetesVersion is the Kubernetes version whose API is served.
const KubernetesVersion = "v1.37.2"

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	return s.sendJSON(w, version.Info{Major: "1", Minor: "37", GitVersion: KubernetesVersion + "+nodekit", Platform: "linux"})
}

// metricsVersion is the group and version for kubectl top.
var metricsVersion = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}

// groupVersions returns the served groups and versions, core first.
func groupVersions() []schema.GroupVersion {
	list := []schema.GroupVersion{metricsVersion, authenticationVersion, authorizationVersion, eventsv1.SchemeGroupVersion}
	for _, k := range object.Kinds() {
		list = append(list, k.GroupVersion())
	}
	for _, r := range object.RefusedKinds() {
		list = append(list, r.GroupVersion())
	}
	slices.SortFunc(list, func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
	list = slices.Compact(list)
	core := slices.IndexFunc(list, func(gv schema.GroupVersion) bool { return gv.Group == "" })
	return slices.Insert(slices.Delete(list, core, core+1), 0, schema.GroupVersion{Version: "v1"})
}

// resourcesOf returns the served resources of a group and version.
func resourcesOf(gv schema.GroupVersion) []metav1.APIResource {
	list := questionResources(gv)
	for _, k := range object.Kinds() {
		if k.GroupVersion() == gv {
			list = append(list, kindResources(k)...)
		}
	}
	for _, r := range object.RefusedKinds() {
		if r.GroupVersion() == gv {
			list = append(list, refusedResource(&r))
		}
	}
	if gv == eventsv1.SchemeGroupVersion {
		list = append(list, kindResources(find(schema.GroupVersion{Version: "v1"}, "events"))...)
	}
	if gv == metricsVersion {
		list = append(list,
			metav1.APIResource{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}},
			metav1.APIResource{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: metav1.Verbs{"get", "list"}})
	}
	return list
}

func kindResources(k *object.Kind) []metav1.APIResource {
	r := metav1.APIResource{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind, ShortNames: k.ShortNames,
		Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
	}
	if k.All {
		r.Categories = []string{"all"}
	}
	list := []metav1.APIResource{r}
	sub := func(name, group, version, kind string, verbs ...string) {
		list = append(list, metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Group: group, Version: version, Kind: kind, Verbs: verbs})
	}
	if k.Status {
		sub("status", "", "", k.Kind, "get", "patch", "update")
	}
	switch k.Kind {
	case "Pod":
		sub("attach", "", "", "PodAttachOptions", "create", "get")
		sub("binding", "", "", "Binding", "create")
		sub("ephemeralcontainers", "", "", "Pod", "get", "patch", "update")
		sub("eviction", "policy", "v1", "Eviction", "create")
		sub("exec", "", "", "PodExecOptions", "create", "get")
		sub("log", "", "", "Pod", "get")
		sub("portforward", "", "", "PodPortForwardOptions", "create", "get")
		sub("resize", "", "", "Pod", "get", "patch", "update")
	case "Namespace":
		sub("finalize", "", "", "Namespace", "update")
	case "Node":
		sub("proxy", "", "", "NodeProxyOptions", "get")
	}
	return list
}

// refusedResource lets clients discover a kind that is not kept, so that their requests
// are answered with what to do instead.
func refusedResource(r *object.Refused) metav1.APIResource {
	a := metav1.APIResource{
		Name: r.Resource, SingularName: r.Singular, Namespaced: r.Namespaced(), Kind: r.Kind, ShortNames: r.ShortNames,
		Verbs: metav1.Verbs{"create", "get", "list", "patch"},
	}
	if r.All {
		a.Categories = []string{"all"}
	}
	return a
}

func (s *Server) discoverCore(w http.ResponseWriter, r *http.Request) error {
	if aggregated(r) {
		return s.sendAggregated(w, groupVersions()[:1])
	}
	return s.sendJSON(w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
}

func (s *Server) discoverGroups(w http.ResponseWriter, r *http.Request) error {
	if aggregated(r) {
		return s.sendAggregated(w, groupVersions()[1:])
	}
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, gv := range groupVersions()[1:] {
		list.Groups = append(list.Groups, group(gv))
	}
	return s.sendJSON(w, list)
}

func group(gv schema.GroupVersion) metav1.APIGroup {
	v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	return metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
}

func (s *Server) discoverGroup(w http.ResponseWriter, r *http.Request) error {
	for _, gv := range groupVersions()[1:] {
		if gv.Group == r.PathValue("group") {
			g := group(gv)
			g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			return s.sendJSON(w, g)
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, r.PathValue("group"))
}

func (s *Server) discoverResources(w http.ResponseWriter, r *http.Request) error {
	gv, _ := split(r.URL.Path)
	list := metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String(), APIResources: resourcesOf(gv),
	}
	if len(list.APIResources) == 0 {
		return apierrors.NewNotFound(schema.GroupResource{}, gv.String())
	}
	return s.sendJSON(w, list)
}

// aggregated reports whether the client asks for aggregated discovery.
func aggregated(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
}

func (s *Server) sendAggregated(w http.ResponseWriter, versions []schema.GroupVersion) error {
	list := apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}}
	for _, gv := range versions {
		list.Items = append(list.Items, apidiscoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group},
			Versions: []apidiscoveryv2.APIVersionDiscovery{{
				Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: aggregate(gv),
			}},
		})
	}
	return s.sendJSONAs(w, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", list)
}

// aggregate puts subresources below their resources.
func aggregate(gv schema.GroupVersion) []apidiscoveryv2.APIResourceDiscovery {
	var list []apidiscoveryv2.APIResourceDiscovery
	for _, r := range resourcesOf(gv) {
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		if _, sub, ok := strings.Cut(r.Name, "/"); ok {
			parent := &list[len(list)-1]
			parent.Subresources = append(parent.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		list = append(list, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return list
}
