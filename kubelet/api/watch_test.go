package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/kubelet/api"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// stream is a watch as it comes over the wire.
type stream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
	code  int
	media string
}

func (s *testServer) watch(t testing.TB, path string, headers ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.config.Host+path, http.NoBody)
	must(t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	got, err := s.client.Do(r)
	must(t, err)
	t.Cleanup(func() { got.Body.Close() })
	lines := bufio.NewScanner(got.Body)
	lines.Buffer(nil, 1<<20)
	return &stream{got.Body, lines, got.StatusCode, got.Header.Get("Content-Type")}
}

// next returns the next event, "" when the stream has ended.
func (s *stream) next() string {
	if !s.lines.Scan() {
		return ""
	}
	return s.lines.Text()
}

// events reads n events, as "ADDED name".
func (s *stream) events(n int) string {
	var list []string
	for range n {
		line := s.next()
		list = append(list, at(line, "type")+" "+at(line, "object.metadata.name"))
	}
	return strings.Join(list, ", ")
}

func TestWatch(t *testing.T) {
	s := serve(t, t.TempDir())
	set := func(name, label string) {
		doc := fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"l":%q}}}`, name, label)
		if s.do(t, "GET", configMaps+"/"+name, "").code == 200 {
			s.make(t, "PUT", configMaps+"/"+name, doc)
			return
		}
		s.make(t, "POST", configMaps, doc)
	}
	set("a", "x")
	from := s.do(t, "GET", configMaps, "").at("metadata.resourceVersion")
	set("b", "y")
	set("b", "x")
	set("a", "y")
	s.make(t, "DELETE", configMaps+"/a", "")
	s.make(t, "POST", "/api/v1/namespaces/other/configmaps", cmDoc)
	s.make(t, "DELETE", configMaps+"/b", "")
	for query, want := range map[string]string{
		configMaps + "?watch=1&resourceVersion=" + from:                                   "ADDED b, MODIFIED b, MODIFIED a, DELETED a, DELETED b",
		"/api/v1/configmaps?watch=true&resourceVersion=" + from:                           "ADDED b, MODIFIED b, MODIFIED a, DELETED a, ADDED cm, DELETED b",
		configMaps + "?watch=1&labelSelector=l%3Dx&resourceVersion=" + from:               "ADDED b, DELETED a, DELETED b",
		configMaps + "?watch=1&labelSelector=l%3Dy&resourceVersion=" + from:               "ADDED b, DELETED b, ADDED a, DELETED a",
		configMaps + "?watch=1&fieldSelector=metadata.name%3Da&resourceVersion=" + from:   "MODIFIED a, DELETED a",
		configMaps + "/b?watch=1&resourceVersion=" + from:                                 "ADDED b, MODIFIED b, DELETED b",
		"/api/v1/configmaps?watch=1":                                                      "ADDED cm",
		"/api/v1/configmaps?watch=1&resourceVersion=0":                                    "ADDED cm",
		"/api/v1/configmaps?watch=1&sendInitialEvents=true&allowWatchBookmarks=true":      "ADDED cm, BOOKMARK , BOOKMARK ",
		"/api/v1/configmaps?watch=1&sendInitialEvents=true&resourceVersion=" + from:       "ADDED cm, BOOKMARK ",
		"/api/v1/configmaps?watch=1&sendInitialEvents=false":                              "",
		"/api/v1/configmaps?watch=1&resourceVersion=" + fmt.Sprint(s.store.Revision()):    "",
		"/api/v1/configmaps?watch=1&resourceVersion=" + fmt.Sprint(s.store.Revision()+99): "ERROR ",
	} {
		w := s.watch(t, query+"&timeoutSeconds=1")
		var got []string
		for line := w.next(); line != ""; line = w.next() {
			got = append(got, at(line, "type")+" "+at(line, "object.metadata.name"))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s\n got %s\nwant %s", query, strings.Join(got, ", "), want)
		}
	}
}

// late is a client so slow that a watch's time is over when the headers have
// gone out.
type late struct{ *httptest.ResponseRecorder }

func (l late) Flush() {
	if l.Body.Len() == 0 {
		time.Sleep(2 * time.Second)
	}
}

// TestWatchWhoseTimeIsOver has events that are ready when the time ends: they
// go out, and a bookmark says how far the watch was where nothing does.
func TestWatchWhoseTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held, err := store.Open(filepath.Join(t.TempDir(), "objects.db"), nil)
		must(t, err)
		defer held.Close()
		server, err := api.New(api.Config{Store: held, NodeName: "node", Kubelet: kubelet{}, TLS: &tls.Config{}})
		must(t, err)
		get := func(w http.ResponseWriter, query string) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, configMaps+"?watch=1&timeoutSeconds=1&"+query, http.NoBody)
			server.Handler().ServeHTTP(w, r)
		}
		kind, err := object.KindOf(&v1.ConfigMap{})
		must(t, err)
		var from uint64
		for _, name := range []string{"before", "a", "b"} {
			if name == "a" {
				from = held.Revision()
			}
			_, err := held.Write(kind, "default", name, func(store.Object) (store.Object, error) {
				return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}, nil
			}, store.WriteOptions{})
			must(t, err)
		}
		w := late{httptest.NewRecorder()}
		get(w, fmt.Sprintf("resourceVersion=%d", from))
		if got := w.Body.String(); strings.Count(got, `"ADDED"`) != 2 {
			t.Errorf("a watch whose time was over at once sent %q, want both objects", got)
		}
		end := httptest.NewRecorder()
		get(end, fmt.Sprintf("allowWatchBookmarks=true&labelSelector=l&resourceVersion=%d", from))
		if got := end.Body.String(); at(got, "type") != "BOOKMARK" || at(got, "object.metadata.resourceVersion") != fmt.Sprint(held.Revision()) {
			t.Errorf("a watch of nothing ended with %q, want a bookmark at %d", got, held.Revision())
		}
	})
}

// TestObjectThatLeavesTheSelection has a watcher's last sight of it as it was,
// with the revision of the change, so that it can go on from there.
func TestObjectThatLeavesTheSelection(t *testing.T) {
	s := serve(t, t.TempDir())
	made := s.make(t, "POST", configMaps, with(cmDoc, `{"metadata":{"labels":{"l":"x"}}}`))
	changed := s.make(t, "PATCH", configMaps+"/cm", `{"metadata":{"labels":{"l":"y"}}}`, mergePatch)
	w := s.watch(t, configMaps+"?watch=1&labelSelector=l%3Dx&resourceVersion="+made.at("metadata.resourceVersion"))
	line := w.next()
	if at(line, "type") != "DELETED" || at(line, "object.metadata.labels.l") != "x" || at(line, "object.metadata.resourceVersion") != changed.at("metadata.resourceVersion") {
		t.Errorf("got %s", line)
	}
}

func TestInitialEventsEndWithABookmark(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", configMaps, cmDoc)
	w := s.watch(t, configMaps+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	w.next()
	line := w.next()
	if at(line, "type") != "BOOKMARK" || at(line, `object.metadata.annotations.k8s\.io/initial-events-end`) != "true" ||
		at(line, "object.metadata.resourceVersion") != fmt.Sprint(s.store.Revision()) || at(line, "object.kind") != "ConfigMap" {
		t.Errorf("got %s", line)
	}
	s.make(t, "PATCH", configMaps+"/cm", `{"data":{"a":"2"}}`, mergePatch)
	if got := w.events(1); got != "MODIFIED cm" {
		t.Errorf("then %s", got)
	}
}

func TestWatchThatIsTooOld(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	from := s.store.Revision()
	kind, err := object.KindOf(&v1.Pod{})
	must(t, err)
	for range 9000 {
		_, err := s.store.Write(kind, "default", "web", func(old store.Object) (store.Object, error) {
			return old.DeepCopyObject().(store.Object), nil
		}, store.WriteOptions{Lazy: true})
		must(t, err)
	}
	w := s.watch(t, fmt.Sprintf("%s?watch=1&resourceVersion=%d", pods, from))
	line := w.next()
	if w.code != 200 || at(line, "type") != "ERROR" || at(line, "object.code") != "410" || at(line, "object.reason") != "Expired" || at(line, "object.kind") != "Status" {
		t.Errorf("got %d %s", w.code, line)
	}
	if line := w.next(); line != "" {
		t.Errorf("and then %s", line)
	}
	recent := s.watch(t, fmt.Sprintf("%s?watch=1&timeoutSeconds=1&resourceVersion=%d", pods, s.store.Revision()-3000))
	for n := range 3001 {
		if line := recent.next(); line == "" {
			if n != 3000 {
				t.Errorf("3000 changes back there are %d events", n)
			}
			break
		}
	}
}

func TestWatchInShapes(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	s.make(t, "POST", pods, with(podDoc, `{"metadata":{"name":"other"}}`))
	table := s.watch(t, pods+"?watch=1", asTable)
	first, second := table.next(), table.next()
	if at(first, "object.kind") != "Table" || at(first, "object.columnDefinitions.0.name") != "Name" || at(first, "object.rows.0.cells.1") != "0/1" {
		t.Errorf("first row: %s", first)
	}
	if at(second, "object.kind") != "Table" || at(second, "object.columnDefinitions.0.name") != "" || at(second, "object.rows.0.cells.0") == at(first, "object.rows.0.cells.0") {
		t.Errorf("second row: %s", second)
	}
	for _, as := range []string{asPartial, asPartials} {
		if line := s.watch(t, pods+"?watch=1", as).next(); at(line, "object.kind") != "PartialObjectMetadata" || at(line, "object.spec") != "" {
			t.Errorf("%s: %s", as, line)
		}
	}
	if w := s.watch(t, pods+"?watch=1", "Accept: application/yaml"); w.code != 406 {
		t.Errorf("YAML: %d", w.code)
	}
	if w := s.watch(t, pods+"?watch=1&fieldSelector=a%3Db"); w.code != 400 {
		t.Errorf("an unknown field: %d", w.code)
	}
	if w := s.watch(t, pods+"?watch=1&resourceVersion=x"); w.code != 400 {
		t.Errorf("no revision: %d", w.code)
	}
}

// TestProtobufWatch has the typed client, which asks for protobuf.
func TestProtobufWatch(t *testing.T) {
	s := serve(t, t.TempDir())
	config := rest.CopyConfig(s.config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	maps := client.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	defer w.Stop()
	made, err := maps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{})
	must(t, err)
	must(t, maps.Delete(t.Context(), "cm", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}}))
	for _, want := range []string{"ADDED", "DELETED"} {
		e := <-w.ResultChan()
		o, ok := e.Object.(*v1.ConfigMap)
		if !ok || string(e.Type) != want || o.Data["a"] != "1" || o.UID != made.UID {
			t.Errorf("got %v %v, want %s", e.Type, e.Object, want)
		}
	}
}

func TestWatchEndsWithTheServer(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	w := s.watch(t, pods+"?watch=1")
	if got := w.events(1); got != "ADDED web" {
		t.Fatal(got)
	}
	start := time.Now()
	s.stop()
	if line := w.next(); line != "" || w.lines.Err() != nil {
		t.Errorf("got %q, %v", line, w.lines.Err())
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the server took %v to end", took)
	}
}

// TestWatchesSeeWhatIsStored has JSON that is shared between watches.
func TestWatchesSeeWhatIsStored(t *testing.T) {
	s := serve(t, t.TempDir())
	a, b := s.watch(t, configMaps+"?watch=1"), s.watch(t, "/api/v1/configmaps?watch=1")
	made := s.make(t, "POST", configMaps, cmDoc)
	for _, w := range []*stream{a, b} {
		var event struct{ Object json.RawMessage }
		if err := json.Unmarshal([]byte(w.next()), &event); err != nil || string(event.Object) != strings.TrimSpace(made.body) {
			t.Errorf("%v: saw %s, stored %s", err, event.Object, made.body)
		}
	}
}
