package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/internal/syncbuf"
	"github.com/nodekit-project/nodekit/kubelet/api"
	"github.com/nodekit-project/nodekit/kubelet/api/identity"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
)

const (
	pods       = "/api/v1/namespaces/default/pods"
	configMaps = "/api/v1/namespaces/default/configmaps"
	secrets    = "/api/v1/namespaces/default/secrets"
	namespaces = "/api/v1/namespaces"

	jsonPatch      = "Content-Type: application/json-patch+json"
	mergePatch     = "Content-Type: application/merge-patch+json"
	strategicPatch = "Content-Type: application/strategic-merge-patch+json"
	applyPatch     = "Content-Type: application/apply-patch+yaml"
)

// testServer is an API over a store in a directory of its own, on a real
// listener with a real identity.
type testServer struct {
	store    *store.Store
	config   *rest.Config
	kubelet  *http.Client // that comes as the node's kubelet
	client   *http.Client
	handler  http.Handler
	log      *syncbuf.Buffer
	listener *cutter
	stop     func() // ends the server, not the store
}

// serve starts a server in the directory.
func serve(t testing.TB, dir string) *testServer {
	t.Helper()
	s := &testServer{log: &syncbuf.Buffer{}}
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if s.store, err = store.Open(filepath.Join(dir, "objects.db"), &store.Options{Logger: logger}); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(filepath.Join(dir, "api"), "node")
	must(t, err)
	l, err := identity.Listen(filepath.Join(dir, "api"))
	must(t, err)
	s.listener = &cutter{Listener: l}
	serverTLS, err := id.ServerTLS()
	must(t, err)
	s.config, err = id.Client(l.Addr().String(), "root", "system:masters")
	must(t, err)
	s.config.QPS = -1
	plain := rest.CopyConfig(s.config)
	plain.NextProtos = []string{"http/1.1"} // whose connections a server closes at once when it ends
	s.client, err = rest.HTTPClientFor(plain)
	must(t, err)
	server, err := api.New(api.Config{Store: s.store, NodeName: "node", Kubelet: kubelet{}, TLS: serverTLS, Logger: logger})
	must(t, err)
	s.handler = server.Handler()
	asKubelet, err := id.Client(l.Addr().String(), "system:node:node", "system:nodes")
	must(t, err)
	asKubelet.NextProtos = plain.NextProtos
	s.kubelet, err = rest.HTTPClientFor(asKubelet)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, s.listener) }()
	s.stop = sync.OnceFunc(func() {
		s.client.CloseIdleConnections()
		s.kubelet.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kubelet answers as a kubelet that has statistics and nothing else.
type kubelet struct{}

func (kubelet) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r.URL.String())), Request: r}
	if r.URL.Path == "/stats/summary" {
		answer.StatusCode = http.StatusOK
		answer.Body = io.NopCloser(strings.NewReader(`{"node":{"nodeName":"node"},"pods":[{"podRef":{"name":"web","namespace":"default"},"containers":[{"name":"c","cpu":{"usageNanoCores":5000000}}]}]}`))
	}
	return answer, nil
}

// cutter is a listener whose connections can be cut.
type cutter struct {
	net.Listener

	mu   sync.Mutex
	open []net.Conn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.open = append(c.open, conn)
		c.mu.Unlock()
	}
	return conn, err
}

// cut closes the connections that choose says.
func (c *cutter) cut(choose func() bool) (closed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.open[:0]
	for _, conn := range c.open {
		if choose() {
			conn.Close()
			closed++
			continue
		}
		left = append(left, conn)
	}
	c.open = left
	return closed
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
}

// do sends a request. Headers are "Name: value"; a body is JSON unless they say
// otherwise.
func (s *testServer) do(t testing.TB, method, path, body string, headers ...string) *answer {
	t.Helper()
	return s.doAs(t, s.client, method, path, body, headers...)
}

func (s *testServer) doAs(t testing.TB, client *http.Client, method, path, body string, headers ...string) *answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.config.Host+path, strings.NewReader(body))
	must(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	got, err := client.Do(r)
	must(t, err)
	defer got.Body.Close()
	data, err := io.ReadAll(got.Body)
	must(t, err)
	return &answer{got.StatusCode, got.Header, string(data)}
}

// make sends a request that must succeed.
func (s *testServer) make(t testing.TB, method, path, body string, headers ...string) *answer {
	t.Helper()
	a := s.do(t, method, path, body, headers...)
	if a.code >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, a.code, a.body)
	}
	return a
}

// at returns a value of a JSON answer as text: "spec.containers.0.name". What
// is not there is "".
func (a *answer) at(path string) string { return at(a.body, path) }

func at(doc, path string) string {
	var value any
	if err := json.Unmarshal([]byte(doc), &value); err != nil {
		return "not JSON: " + err.Error()
	}
	for key := range strings.SplitSeq(strings.ReplaceAll(path, `\.`, "\x00"), ".") {
		key = strings.ReplaceAll(key, "\x00", ".")
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(v) {
				return ""
			}
			value = v[i]
		default:
			return ""
		}
	}
	if text, ok := value.(string); ok || value == nil {
		return text
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// want holds the answer to a code, to parts of its body, and to values in it
// ("path=value").
func (a *answer) want(t testing.TB, code int, wants ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("got %d, want %d: %.600s", a.code, code, a.body)
		return
	}
	for _, w := range wants {
		if path, value, ok := strings.Cut(w, "=="); ok {
			if got := a.at(path); got != value {
				t.Errorf("%s is %q, want %q", path, got, value)
			}
			continue
		}
		if !strings.Contains(a.body, w) {
			t.Errorf("no %q in %.600s", w, a.body)
		}
	}
}

const (
	podDoc = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"busybox"}]}}`
	cmDoc  = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"},"data":{"a":"1"}}`
)

// with is a document with a JSON merge patch over it.
func with(doc, patch string) string {
	out, err := jsonpatch.MergePatch([]byte(doc), []byte(patch))
	if err != nil {
		panic(err)
	}
	return string(out)
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
