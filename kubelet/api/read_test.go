package api_test

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

const (
	asTable     = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"
	asPartial   = "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	asPartials  = "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	asProtobuf  = "Accept: application/vnd.kubernetes.protobuf"
	ofProtobuf  = "Content-Type: application/vnd.kubernetes.protobuf"
	asAggregate = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

func TestListBySelectors(t *testing.T) {
	s := serve(t, t.TempDir())
	for i, n := range []string{"b", "a", "default"} {
		s.make(t, "POST", "/api/v1/namespaces/"+n+"/pods", with(podDoc, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i)))
	}
	s.make(t, "PATCH", pods+"/web/status", `{"status":{"phase":"Running","podIP":"10.0.0.1"}}`, mergePatch)
	s.make(t, "POST", secrets, `{"metadata":{"name":"s"},"type":"example.com/x"}`)
	for query, want := range map[string]string{
		"/api/v1/pods":                                                          "a b default",
		"/api/v1/namespaces/a/pods":                                             "a",
		"/api/v1/namespaces/none/pods":                                          "",
		"/api/v1/pods?labelSelector=n%3D1":                                      "a",
		"/api/v1/pods?labelSelector=n%20in%20(0,2)":                             "b default",
		"/api/v1/pods?labelSelector=!n":                                         "",
		"/api/v1/pods?fieldSelector=metadata.namespace%3Db":                     "b",
		"/api/v1/pods?fieldSelector=spec.nodeName%3Dnode":                       "a b default",
		"/api/v1/pods?fieldSelector=spec.nodeName%3Dother":                      "",
		"/api/v1/pods?fieldSelector=status.phase%3DRunning":                     "default",
		"/api/v1/pods?fieldSelector=status.phase!%3DRunning":                    "a b",
		"/api/v1/pods?fieldSelector=status.podIP%3D10.0.0.1":                    "default",
		"/api/v1/pods?fieldSelector=spec.restartPolicy%3DAlways":                "a b default",
		"/api/v1/pods?fieldSelector=metadata.name%3Dx":                          "",
		"/api/v1/pods?labelSelector=n%3D1&fieldSelector=metadata.namespace%3Db": "",
		"/api/v1/pods?limit=1":                                                  "a b default",
		"/api/v1/secrets?fieldSelector=type%3Dexample.com/x":                    "default",
		"/api/v1/secrets?fieldSelector=type%3DOpaque":                           "",
		"/api/v1/pods?fieldSelector=wonder%3D1":                                 "400",
		"/api/v1/pods?fieldSelector=status.podIP":                               "400",
		"/api/v1/pods?labelSelector=%3D%3D":                                     "400",
		"/api/v1/configmaps?fieldSelector=spec.nodeName%3Dnode":                 "400",
		"/api/v1/pods?resourceVersion=x":                                        "400",
		"/api/v1/pods?resourceVersion=0":                                        "a b default",
		"/api/v1/pods?resourceVersion=1":                                        "a b default",
		"/api/v1/pods?resourceVersion=99999999":                                 "504",
		"/api/v1/pods?timeoutSeconds=x":                                         "400",
	} {
		a := s.do(t, "GET", query, "")
		got := fmt.Sprint(a.code)
		if a.code == 200 {
			var names []string
			for i := 0; a.at(fmt.Sprintf("items.%d.metadata.name", i)) != ""; i++ {
				names = append(names, a.at(fmt.Sprintf("items.%d.metadata.namespace", i)))
			}
			got = strings.Join(names, " ")
			if rv := a.at("metadata.resourceVersion"); rv != fmt.Sprint(s.store.Revision()) {
				t.Errorf("%s: resourceVersion %s", query, rv)
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q: %.300s", query, got, want, a.body)
		}
	}
	s.do(t, "GET", "/api/v1/pods?resourceVersion=99999999", "").want(t, 504, "details.causes.0.reason==ResourceVersionTooLarge")
	s.do(t, "GET", pods+"/other", "").want(t, 404, "reason==NotFound", "details.name==other", "details.kind==pods", "kind==Status", "apiVersion==v1")
}

// TestListAsItWas has lists that are to be exactly as of a resourceVersion: they
// are if nothing of the kind has changed since.
func TestListAsItWas(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", configMaps, cmDoc)
	was := s.do(t, "GET", configMaps, "").at("metadata.resourceVersion")
	s.make(t, "POST", pods, podDoc)
	at := func(revision, match string) *answer {
		return s.do(t, "GET", configMaps+"?resourceVersion="+revision+"&resourceVersionMatch="+match, "")
	}
	at(was, "Exact").want(t, 200, "metadata.resourceVersion=="+was, "items.0.data.a==1")
	at(was, "NotOlderThan").want(t, 200, "metadata.resourceVersion=="+fmt.Sprint(s.store.Revision()))
	s.make(t, "PATCH", configMaps+"/cm", `{"data":{"a":"2"}}`, mergePatch)
	at(was, "Exact").want(t, 410, "reason==Expired")
	at(was, "NotOlderThan").want(t, 200, "items.0.data.a==2")
	at(fmt.Sprint(s.store.Revision()), "Exact").want(t, 200, "items.0.data.a==2")
	at("99999999", "Exact").want(t, 504)
	at("0", "Exact").want(t, 400, "other than 0")
	at("", "Exact").want(t, 400, "needs a resourceVersion")
	at(was, "Perhaps").want(t, 400, "none of Exact, NotOlderThan")
	s.do(t, "GET", configMaps+"?watch=1&resourceVersion="+was+"&resourceVersionMatch=Exact", "").want(t, 400, "is for lists")
}

func TestAnswersInManyShapes(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	one, all := pods+"/web", pods
	for name, c := range map[string]struct {
		path, accept string
		code         int
		media        string
		want         []string
	}{
		"anything":             {one, "Accept: */*", 200, "application/json", []string{"kind==Pod"}},
		"the first known":      {one, "Accept: text/html, application/xml;q=0.9, application/yaml, application/json", 200, "application/yaml", []string{"kind: Pod\n"}},
		"YAML list":            {all, "Accept: application/yaml", 200, "application/yaml", []string{"kind: PodList\n"}},
		"table":                {one, asTable, 200, "application/json", []string{"kind==Table", "rows.0.cells.0==web", "columnDefinitions.0.name==Name", "rows.0.object.kind==PartialObjectMetadata"}},
		"table of all":         {all, asTable, 200, "application/json", []string{"kind==Table", "metadata.resourceVersion==2", "rows.0.cells.0==web"}},
		"table with objects":   {all + "?includeObject=Object", asTable, 200, "application/json", []string{"rows.0.object.kind==Pod"}},
		"table without":        {all + "?includeObject=None", asTable, 200, "application/json", []string{"rows.0.object=="}},
		"table, or else":       {one, "Accept: application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", 200, "application/json", []string{"kind==Pod"}},
		"table of protobuf":    {one, "Accept: application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", 406, "application/json", []string{"code==406"}},
		"metadata":             {one, asPartial, 200, "application/json", []string{"kind==PartialObjectMetadata", "apiVersion==meta.k8s.io/v1", "metadata.name==web", "spec=="}},
		"metadata of all":      {all, asPartials, 200, "application/json", []string{"kind==PartialObjectMetadataList", "items.0.metadata.name==web", "items.0.spec=="}},
		"metadata of protobuf": {one, "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 200, "application/vnd.kubernetes.protobuf", []string{"k8s\x00", "PartialObjectMetadata"}},
		"nothing known":        {one, "Accept: text/html", 406, "application/json", []string{"code==406", "application/yaml"}},
		"unknown shape":        {one, "Accept: application/json;as=Wonder;v=v1;g=meta.k8s.io", 406, "application/json", nil},
		"error in YAML":        {pods + "/none", "Accept: application/yaml", 404, "application/yaml", []string{"reason: NotFound"}},
		"error as a table":     {pods + "/none", asTable, 404, "application/json", []string{"kind==Status"}},
		"broken accept":        {one, "Accept: ;;;", 406, "application/json", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.do(t, "GET", c.path, "", c.accept)
			a.want(t, c.code, c.want...)
			if got := a.header.Get("Content-Type"); got != c.media {
				t.Errorf("media %q", got)
			}
		})
	}
	before := s.store.Revision()
	s.do(t, "POST", configMaps, cmDoc, "Accept: text/html").want(t, 406)
	s.do(t, "PATCH", pods+"/web/status", `{"status":{"phase":"Running"}}`, mergePatch, "Accept: text/html").want(t, 406)
	s.do(t, "POST", pods+"/web/eviction", `{}`, "Accept: text/html").want(t, 406)
	s.do(t, "DELETE", pods+"/web", "", "Accept: text/html").want(t, 406)
	if s.store.Revision() != before {
		t.Error("what cannot be answered was done")
	}
}

func TestBodies(t *testing.T) {
	s := serve(t, t.TempDir())
	codec := protobuf.NewSerializer(object.Scheme(), object.Scheme())
	encode := func(o runtime.Object) string {
		data, err := runtime.Encode(codec, o)
		must(t, err)
		return string(data)
	}
	p := &v1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "proto"}}
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "x"}}
	a := s.do(t, "POST", pods, encode(p), ofProtobuf, asProtobuf)
	decoded, err := runtime.Decode(codec, []byte(a.body))
	if err != nil || decoded.(*v1.Pod).Spec.NodeName != "node" || decoded.(*v1.Pod).UID == "" {
		t.Errorf("protobuf: %d %v %v", a.code, decoded, err)
	}
	s.do(t, "POST", pods, encode(&v1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}}), ofProtobuf).want(t, 400, "want a Pod")
	s.do(t, "POST", pods, "k8s\x00garbage", ofProtobuf).want(t, 400)
	s.do(t, "POST", pods, "metadata:\n  name: yaml\nspec:\n  containers:\n  - {name: c, image: x}\n", "Content-Type: application/yaml").want(t, 201, "metadata.name==yaml")
	s.do(t, "POST", pods, "a: [", "Content-Type: application/yaml").want(t, 400, "not YAML")
	s.do(t, "POST", pods, podDoc, "Content-Type: application/json; charset=utf-8").want(t, 201)
	s.do(t, "POST", pods, podDoc, "Content-Type: text/plain").want(t, 415, "reason==UnsupportedMediaType")
	s.do(t, "POST", pods, podDoc, "Content-Type: ;").want(t, 400)
	s.do(t, "DELETE", pods+"/yaml", `{}`, "Content-Type: text/plain").want(t, 415)
	big := `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", 10<<20) + `"}}`
	s.do(t, "POST", configMaps, big).want(t, 413, "reason==RequestEntityTooLarge", "10 MiB")
	s.do(t, "POST", configMaps, big[:len(big)-1024]).want(t, 400)
	one := `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", object.MaxSize) + `"}}`
	s.do(t, "POST", configMaps, one).want(t, 413, "reason==RequestEntityTooLarge", "ConfigMap default/big is too large", "1.5 MiB")
	s.do(t, "POST", configMaps+"?dryRun=All", one).want(t, 413)
	s.do(t, "GET", configMaps, "").want(t, 200, "items==[]")
}

// TestRefusedKinds has what users try on a node and what it keeps none of.
func TestRefusedKinds(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, r := range object.RefusedKinds() {
		path := "/apis/" + r.GroupVersion().String()
		if r.Group == "" {
			path = "/api/v1"
		}
		if r.Namespaced() {
			path += "/namespaces/default"
		}
		path += "/" + r.Resource
		s.do(t, "GET", path, "").want(t, 200, "items==[]", "kind=="+r.Kind+"List")
		s.do(t, "GET", path, "", asTable).want(t, 200, "kind==Table", "rows==[]")
		s.do(t, "GET", path+"/x", "").want(t, 404, "reason==NotFound")
		s.do(t, "POST", path, "{}").want(t, 405, r.Kind+" is not supported: ")
		s.do(t, "PATCH", path+"/x?fieldManager=a", "{}", applyPatch).want(t, 405, r.Kind+" is not supported: ")
	}
}

func TestDiscovery(t *testing.T) {
	s := serve(t, t.TempDir())
	s.do(t, "GET", "/version", "").want(t, 200, "major==1")
	s.do(t, "GET", "/readyz", "").want(t, 200, "ok")
	s.do(t, "GET", "/wonder", "").want(t, 404, "kind==Status")
	s.do(t, "GET", "/api", "").want(t, 200, "kind==APIVersions", `versions==["v1"]`)
	groups := s.do(t, "GET", "/apis", "")
	core, rest := s.do(t, "GET", "/api", "", asAggregate), s.do(t, "GET", "/apis", "", asAggregate)
	core.want(t, 200, "kind==APIGroupDiscoveryList")
	index := s.do(t, "GET", "/openapi/v3", "")
	for _, k := range object.Kinds() {
		path, aggregated := "/apis/"+k.GroupVersion().String(), rest
		if k.Group == "" {
			path, aggregated = "/api/"+k.Version, core
		} else {
			groups.want(t, 200, `"groupVersion":"`+k.GroupVersion().String()+`"`)
			s.do(t, "GET", "/apis/"+k.Group, "").want(t, 200, "kind==APIGroup", "name=="+k.Group)
		}
		named := fmt.Sprintf(`"name":%q,"singularName":%q,"namespaced":%v`, k.Resource, k.Singular, k.Namespaced)
		s.do(t, "GET", path, "").want(t, 200, named)
		aggregated.want(t, 200, fmt.Sprintf(`"resource":%q,"responseKind":{"group":%q,"version":%q,"kind":%q}`, k.Resource, k.Group, k.Version, k.Kind))
		url := index.at("paths." + strings.ReplaceAll(path[1:], ".", `\.`) + ".serverRelativeURL")
		document := s.do(t, "GET", url, "")
		document.want(t, 200, "openapi==3.0.0", fmt.Sprintf(`{"group":%q,"kind":%q,"version":%q}`, k.Group, k.Kind, k.Version))
		s.do(t, "GET", url, "", "If-None-Match: "+document.header.Get("Etag")).want(t, 304)
	}
	s.do(t, "GET", "/apis/wonder.io", "").want(t, 404)
	s.do(t, "GET", "/apis/wonder.io/v1", "").want(t, 404)
	s.do(t, "GET", "/openapi/v3/apis/wonder.io/v1", "").want(t, 404)
}

func TestMetrics(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	const metrics = "/apis/metrics.k8s.io/v1beta1/"
	s.do(t, "GET", metrics+"nodes", "").want(t, 200, "items.0.metadata.name==node")
	s.do(t, "GET", metrics+"nodes/node", "").want(t, 200, "metadata.name==node")
	s.do(t, "GET", metrics+"nodes/other", "").want(t, 404)
	s.do(t, "GET", metrics+"pods", "").want(t, 200, "items.0.containers.0.usage.cpu==5m")
	s.do(t, "GET", metrics+"namespaces/default/pods/web", "").want(t, 200, "metadata.name==web")
	s.do(t, "GET", metrics+"namespaces/other/pods", "").want(t, 200, "items==[]")
	s.do(t, "GET", metrics+"pods?labelSelector=a", "").want(t, 200, "items==[]")
	s.do(t, "GET", metrics+"pods?labelSelector==", "").want(t, 400)
	s.do(t, "GET", metrics, "").want(t, 404)
	s.do(t, "POST", metrics+"pods", "{}").want(t, 405)
}
