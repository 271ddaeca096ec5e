package image_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// requests are what a server was asked, in order.
type requests struct {
	mu  sync.Mutex
	all []*http.Request
}

func (r *requests) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.all = append(r.all, req)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

func (r *requests) take() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// hostsFile configures a registry in a directory of its own.
func hostsFile(t testing.TB, registry, text string) *image.Options {
	t.Helper()
	dir := t.TempDir()
	name := registry
	if host, port, ok := strings.Cut(registry, ":"); ok {
		name = host + "_" + port + "_"
	}
	sub := filepath.Join(dir, name)
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &image.Options{Hosts: dir}
}

// TestPullFromMirror: a registry that cannot be reached at all has mirrors. The
// image bears the name of its registry, and is found by it.
func TestPullFromMirror(t *testing.T) {
	m := newRegistry(t)
	m.push(t, "team/app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	var seen requests
	m.on(func(_ http.ResponseWriter, r *http.Request) bool {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		seen.all = append(seen.all, r)
		return false
	})
	opts := hostsFile(t, "registry.invalid", fmt.Sprintf("[host.\"http://127.0.0.1:1\"]\n[host.\"http://%s\"]\nheader = { X-Site = \"here\" }\n", m.host))
	s := open(t, t.TempDir(), opts)
	const ref = "registry.invalid/team/app:v1"
	id, err := s.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Status(t.Context(), ref)
	if err != nil || got.GetId() != id || !cmp.Equal(got.RepoTags, []string{ref}) || !strings.HasPrefix(got.RepoDigests[0], "registry.invalid/team/app@sha256:") {
		t.Errorf("Status: %v, %v", got, err)
	}
	if _, err := s.Pull(t.Context(), got.RepoDigests[0], nil); err != nil {
		t.Errorf("by its digest: %v", err)
	}
	for _, r := range seen.take() {
		if r.Header.Get("X-Site") != "here" || (r.URL.Path != "/v2/" && r.URL.Query().Get("ns") != "registry.invalid") {
			t.Errorf("the mirror was asked for %v with %v", r.URL, r.Header)
		}
	}
}

// TestPullFallsThrough: whatever is wrong with a mirror, the registry serves.
func TestPullFallsThrough(t *testing.T) {
	origin := newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")), layerOf(t, file("c", "d")))
	ref := origin.push(t, "app:v1", im)
	at := func(kind string, answer http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, kind) {
				answer(w, r)
				return true
			}
			return false
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
	}
	to := func(url string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusFound) }
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"no image":        at("/manifests/", status(404)),
		"wants a login":   at("/v2/", status(401)),
		"forbids":         at("/manifests/", status(403)),
		"busy":            at("/manifests/", status(429)),
		"broken":          at("/v2/", status(500)),
		"no registry":     at("/v2/", text("<html>welcome</html>")),
		"other contents":  at("/blobs/", text("something else")),
		"no layers":       at("/blobs/", status(404)),
		"too long":        at("/manifests/", text(strings.Repeat("x", 5<<20))),
		"two meanings":    at("/manifests/", text(`{"manifests":[],"layers":[]}`)),
		"redirects out":   at("/manifests/", to("file:///etc/passwd")),
		"a corrupt layer": at("/blobs/sha256:"+topLayer(t, im), text("something else")),
		"a cut layer":     at("/blobs/sha256:"+topLayer(t, im), text("")),
		"redirects round": at("/blobs/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }),
	} {
		t.Run(name, func(t *testing.T) {
			mirror := newRegistry(t)
			mirror.push(t, "app:v1", im)
			mirror.on(answer)
			s := open(t, t.TempDir(), hostsFile(t, origin.host, fmt.Sprintf("[host.\"http://%s\"]\n", mirror.host)))
			if _, err := s.Pull(t.Context(), ref, nil); err != nil {
				t.Fatal(err)
			}
			wantFile(t, filepath.Join(mounted(t, s, ref, t.TempDir()).Path, "c"), "d")
		})
	}
}

// TestPullLeavesBrokenMirror: a mirror that begins to answer and never gets anywhere
// is followed by the next place, as one that does not answer is.
func TestPullLeavesBrokenMirror(t *testing.T) {
	t.Parallel() // it waits
	for name, c := range map[string]func(w http.ResponseWriter, r *http.Request, body []byte){
		"cut at once": func(w http.ResponseWriter, r *http.Request, body []byte) { part(w, r, body, 0) },
		"cut half way": func(w http.ResponseWriter, r *http.Request, body []byte) {
			r.Header.Del("Range")
			part(w, r, body, 500_000)
		},
		"ended at once": func(w http.ResponseWriter, r *http.Request, body []byte) { unannounced(w, r, body, 0) },
		"ended half way": func(w http.ResponseWriter, r *http.Request, body []byte) {
			r.Header.Del("Range")
			unannounced(w, r, body, 500_000)
		},
		"other, too short": func(w http.ResponseWriter, r *http.Request, body []byte) {
			r.Header.Del("Range")
			unannounced(w, r, make([]byte, 1000), 1000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlaky(t)
			mirror := newRegistryBeside(t, f.testRegistry)
			mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, f.layer) {
					return false
				}
				c(w, r, f.body)
				return true
			})
			f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) { part(w, r, f.body, len(f.body)) })
			s := open(t, t.TempDir(), hostsFile(t, f.host, fmt.Sprintf("[host.\"http://%s\"]\n", mirror.host)))
			if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
				t.Fatal(err)
			}
			wantPulled(t, s, f.ref)
		})
	}
}

func topLayer(t *testing.T, im v1.Image) string {
	t.Helper()
	layers, err := im.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Hex
}

// TestPullMirrorOnly: without the registry in reach, what is wrong is said for
// each place, and its kind is the last one's.
func TestPullMirrorOnly(t *testing.T) {
	m := newRegistry(t)
	for name, c := range map[string]struct {
		text string
		kind error
		want []string
	}{
		"both fail":     {fmt.Sprintf("[host.\"http://%s\"]\n", m.host), fault.Unavailable, []string{`mirror "http://` + m.host + `/v2" has no such image`, `registry "127.0.0.1:1" cannot be reached`}},
		"nobody may":    {"capabilities = [\"push\"]\n", fault.FailedPrecondition, []string{"allows no place"}},
		"damaged":       {"server = \n", fault.FailedPrecondition, []string{"hosts.toml:1: "}},
		"no such ca":    {"ca = \"none.pem\"\n", fault.FailedPrecondition, []string{"none.pem"}},
		"ca is none":    {"ca = \"hosts.toml\"\n", fault.FailedPrecondition, []string{"no certificate in PEM"}},
		"no client key": {"client = \"hosts.toml\"\n", fault.FailedPrecondition, []string{"client certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			_, err := open(t, store, hostsFile(t, "127.0.0.1:1", c.text)).Pull(t.Context(), "127.0.0.1:1/app:v1", nil)
			if !errors.Is(err, c.kind) {
				t.Errorf("Pull: %v; want %v", err, c.kind)
			}
			for _, w := range c.want {
				if !strings.Contains(fmt.Sprint(err), w) {
					t.Errorf("Pull: %v; want %q in it", err, w)
				}
			}
			wantEmpty(t, store)
		})
	}
}

// TestPullAsksWhoMay: a mirror that may only serve content is not asked what a
// tag means.
func TestPullAsksWhoMay(t *testing.T) {
	origin, mirror := newRegistry(t), newRegistry(t)
	ref := origin.push(t, "app:v1", imageOf(t, layerOf(t, file("v", "new"))))
	mirror.push(t, "app:v1", imageOf(t, layerOf(t, file("v", "old"))))
	s := open(t, t.TempDir(), hostsFile(t, origin.host, fmt.Sprintf("[host.\"http://%s\"]\ncapabilities = [\"pull\"]\n", mirror.host)))
	if _, err := s.Pull(t.Context(), ref, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(mounted(t, s, ref, t.TempDir()).Path, "v"), "new")
}

// TestPullOverridesPath reads a registry whose API lies somewhere else, and
// answers nowhere but there.
func TestPullOverridesPath(t *testing.T) {
	inner := newRegistry(t)
	inner.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	var wrong requests
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/v2/cache/app/")
		if !ok {
			wrong.record(http.NotFoundHandler()).ServeHTTP(w, r)
			return
		}
		r.URL.Path = "/v2/app/" + rest
		inner.inner.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	s := open(t, t.TempDir(), hostsFile(t, "registry.invalid", fmt.Sprintf("[host.\"%s/v2/cache\"]\noverride_path = true\n", proxy.URL)))
	if _, err := s.Pull(t.Context(), "registry.invalid/app:v1", nil); err != nil {
		t.Error(err)
	}
	for _, r := range wrong.take() {
		t.Errorf("%s was asked for", r.URL)
	}
}

// certificate makes a certificate for this machine, signed by itself.
func certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestPullByTLS(t *testing.T) {
	inner := newRegistry(t)
	inner.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	srv := httptest.NewUnstartedServer(inner.inner)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	clients := x509.NewCertPool()
	raw, err := os.ReadFile(cert)
	if err != nil || !clients.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	srv.TLS = &tls.Config{ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, ok := range map[string]bool{
		fmt.Sprintf("ca = %q\nclient = [[%q, %q]]", ca, cert, key):        true,
		fmt.Sprintf("skip_verify = true\nclient = [[%q, %q]]", cert, key): true,
		fmt.Sprintf("client = [[%q, %q]]", cert, key):                     false,
		fmt.Sprintf("ca = %q", ca):                                        false,
		fmt.Sprintf("ca = [%q]\nclient = [[%q, %q]]", cert, cert, key):    false,
		"skip_verify = true\ndial_timeout = \"5s\"\nca = []\n":            false,
	} {
		s := open(t, t.TempDir(), hostsFile(t, "registry.invalid", fmt.Sprintf("[host.\"%s\"]\n%s\n", srv.URL, text)))
		if _, err := s.Pull(t.Context(), "registry.invalid/app:v1", nil); (err == nil) != ok {
			t.Errorf("with %s: %v; want it to work: %v", text, err, ok)
		}
	}
}

// TestPullLogsInByHeader: a header may be what a mirror wants to be logged in with, also
// where it gives a token for that.
func TestPullLogsInByHeader(t *testing.T) {
	mirror := newRegistry(t)
	mirror.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	const login = "Basic bWU6c2VjcmV0"
	opts := hostsFile(t, "registry.invalid", fmt.Sprintf("[host.\"http://%s\"]\nheader = { Authorization = %q }\n", mirror.host, login))
	for name, challenge := range map[string]string{
		login:         `Basic realm="test"`,
		"Bearer good": fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, mirror.host),
	} {
		mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
			got := r.Header.Get("Authorization")
			if r.URL.Path == "/token" && got == login {
				fmt.Fprint(w, `{"token":"good"}`)
				return true
			}
			if r.URL.Path != "/token" && got == name {
				return false
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		if _, err := open(t, t.TempDir(), opts).Pull(t.Context(), "registry.invalid/app:v1", nil); err != nil {
			t.Errorf("with %s: %v", challenge, err)
		}
	}
}

// TestPullKeepsSecrets: credentials and headers go to the host that they are
// for, not to mirrors, and not to where a server redirects.
func TestPullKeepsSecrets(t *testing.T) {
	origin, mirror, storage := newRegistry(t), newRegistry(t), newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")))
	ref := origin.push(t, "app:v1", im)
	mirror.push(t, "app:v1", im)
	storage.push(t, "app:v1", im)
	var atMirror, atStorage requests
	wantLogin := func(user string, then func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if got, _, _ := r.BasicAuth(); got == user {
				return then(w, r)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	}
	redirect := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+storage.host+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	origin.on(wantLogin("me", redirect))
	note := func(to *requests, then func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			to.mu.Lock()
			to.all = append(to.all, r)
			to.mu.Unlock()
			return then(w, r)
		}
	}
	storage.on(note(&atStorage, func(http.ResponseWriter, *http.Request) bool { return false }))
	mirror.on(note(&atMirror, wantLogin("mirror", redirect)))
	opts := hostsFile(t, origin.host, fmt.Sprintf("[host.\"http://%s\"]\nheader = { X-Secret = \"secret\" }\n", mirror.host))
	wantNone := func(who string, all []*http.Request, headers ...string) {
		t.Helper()
		if len(all) == 0 {
			t.Errorf("%s was not asked", who)
		}
		for _, r := range all {
			for _, h := range headers {
				if v := r.Header.Get(h); v != "" {
					t.Errorf("%s got %s: %s", who, h, v)
				}
			}
		}
	}
	for _, server := range []string{"", origin.host} {
		auth := &runtimeapi.AuthConfig{Username: "me", Password: "secret", ServerAddress: server}
		if _, err := open(t, t.TempDir(), opts).Pull(t.Context(), ref, &image.PullOptions{Auth: auth}); err != nil {
			t.Fatal(err)
		}
		wantNone("the mirror", atMirror.take(), "Authorization")
		wantNone("the storage", atStorage.take(), "Authorization", "X-Secret")
	}
	basic := base64.StdEncoding.EncodeToString([]byte("mirror:secret"))
	setDockerConfig(t, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, mirror.host, basic))
	origin.on(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	for _, auth := range []*runtimeapi.AuthConfig{nil, {Username: "mirror", Password: "secret", ServerAddress: "http://" + mirror.host}} {
		if _, err := open(t, t.TempDir(), opts).Pull(t.Context(), ref, &image.PullOptions{Auth: auth}); err != nil {
			t.Errorf("the mirror's own credentials: %v", err)
		}
		wantNone("the storage", atStorage.take(), "Authorization", "X-Secret")
	}
}
