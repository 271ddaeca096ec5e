package image_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// testRegistry is a registry on the loopback interface.
type testRegistry struct {
	host string
	// serve decides what to do with a request; true means that it was answered.
	serve atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	blobs atomic.Int32 // requests for blobs
	inner http.Handler
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{inner: registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))}
	r.start(t)
	return r
}

// newRegistryBeside is a registry with the content of another.
func newRegistryBeside(t testing.TB, other *testRegistry) *testRegistry {
	t.Helper()
	r := &testRegistry{inner: other.inner}
	r.start(t)
	return r
}

func (r *testRegistry) start(t testing.TB) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if f := r.serve.Load(); f != nil && (*f)(w, req) {
			return
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.blobs.Add(1)
		}
		r.inner.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
}

func (r *testRegistry) on(f func(http.ResponseWriter, *http.Request) bool) { r.serve.Store(&f) }

// push stores an image or an index and returns its reference.
func (r *testRegistry) push(t testing.TB, path string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	switch w := what.(type) {
	case v1.Image:
		err = remote.Write(ref, w)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, w)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func TestPull(t *testing.T) {
	r := newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", strings.Repeat("1", 1<<20))), layerOf(t, file("b", "2")))
	ref := r.push(t, "app:v1", im)
	s := open(t, t.TempDir(), nil)
	var seen []image.Progress
	id, err := s.Pull(t.Context(), ref, &image.PullOptions{Progress: func(p image.Progress) { seen = append(seen, p) }})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := im.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ref, id, r.host + "/app@" + digest.String()} {
		got, err := s.Status(t.Context(), name)
		if err != nil || got.GetId() != id {
			t.Fatalf("Status(%q) = %v, %v; want id %q", name, got, err, id)
		}
		if diff := cmp.Diff([]string{r.host + "/app@" + digest.String()}, got.RepoDigests); diff != "" {
			t.Error(diff)
		}
	}
	wantProgress(t, im, seen)
	wantFile(t, filepath.Join(mounted(t, s, ref, t.TempDir()).Path, "b"), "2")

	before := r.blobs.Load()
	if again, err := s.Pull(t.Context(), ref, nil); err != nil || again != id {
		t.Errorf("the second pull gave %q, %v; want %q", again, err, id)
	}
	if n := r.blobs.Load() - before; n > 1 {
		t.Errorf("the second pull asked for %d blobs, want the config at most", n)
	}
}

func wantProgress(t *testing.T, im v1.Image, seen []image.Progress) {
	t.Helper()
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		var done int64 = -1
		for _, p := range seen {
			if p.Layer == l.Digest.String() {
				if p.Done < done || p.Total != l.Size {
					t.Errorf("progress went from %d to %+v", done, p)
				}
				done = p.Done
			}
		}
		if done != l.Size {
			t.Errorf("the last progress of layer %s is %d of %d bytes", l.Digest, done, l.Size)
		}
	}
}

func TestPullChoosesPlatform(t *testing.T) {
	r := newRegistry(t)
	add := func(arch, body string) mutate.IndexAddendum {
		d := v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}
		return mutate.IndexAddendum{Add: imageOf(t, layerOf(t, file("arch", body))), Descriptor: d}
	}
	newer, unsaid := add(runtime.GOARCH, "newer"), add(runtime.GOARCH, "unsaid")
	newer.Platform.Variant, unsaid.Platform = "v9", nil
	index := mutate.AppendManifests(empty.Index, unsaid, add("s390x", "other"), newer, add(runtime.GOARCH, "mine"))
	s := open(t, t.TempDir(), nil)
	for i := range 4 {
		ref := r.push(t, fmt.Sprintf("multi%d:v1", i), index)
		_, err := s.Pull(t.Context(), ref, nil)
		if i == 3 {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("an image behind four indexes: %v; want fault.Invalid", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, filepath.Join(mounted(t, s, ref, t.TempDir()).Path, "arch"), "mine")
		index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})
	}
	foreign := r.push(t, "foreign:v1", mutate.AppendManifests(empty.Index, add("s390x", "other")))
	if _, err := s.Pull(t.Context(), foreign, nil); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "linux/"+runtime.GOARCH) {
		t.Errorf("an image for other machines: %v; want fault.NotFound that names the platform", err)
	}
}

func TestPullOnce(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b")), layerOf(t, file("c", "d"))))
	started := make(chan struct{}, 100)
	gate := make(chan struct{})
	r.on(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") {
			started <- struct{}{}
			<-gate
		}
		return false
	})
	s := open(t, t.TempDir(), nil)
	impatient, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Pull(impatient, ref, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("the pull that was given up: %v", err)
		}
	})
	select {
	case <-started:
	case <-time.After(10 * time.Second):
		t.Error("the first pull asks for no blob")
	}
	for range 5 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), ref, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); s.Waiting() < 6 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // let them join
	}
	giveUp()
	close(gate)
	wg.Wait()
	if n := r.blobs.Load(); n != 3 {
		t.Errorf("six pulls asked for %d blobs, want the config and two layers", n)
	}
}

func TestPullGivenUp(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	gate, started := make(chan struct{}), make(chan struct{}, 10)
	r.on(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") {
			started <- struct{}{}
			select {
			case <-gate:
			case <-req.Context().Done():
			}
		}
		return false
	})
	store := t.TempDir()
	s := open(t, store, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	if _, err := s.Pull(ctx, ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Pull: %v, want context.Canceled", err)
	}
	close(gate)
	if _, err := s.Pull(t.Context(), ref, nil); err != nil {
		t.Errorf("the next pull: %v", err)
	}
}

// setDockerConfig lets the test have the user's docker configuration say what
// config does, and takes it back when the test ends.
func setDockerConfig(t *testing.T, config string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

func TestPullCredentials(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "private:v1", imageOf(t, layerOf(t, file("a", "b"))))
	r.on(func(w http.ResponseWriter, req *http.Request) bool {
		user, password, ok := req.BasicAuth()
		switch {
		case user == "me" && password == "secret":
			return false
		case ok && user == "stranger":
			http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		}
		return true
	})
	basic := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for name, c := range map[string]struct {
		auth   *runtimeapi.AuthConfig
		config string
		kind   error
	}{
		"none":                {nil, "", fault.Unauthenticated},
		"empty":               {&runtimeapi.AuthConfig{}, "", fault.Unauthenticated},
		"wrong":               {&runtimeapi.AuthConfig{Username: "me", Password: "guess"}, "", fault.Unauthenticated},
		"not allowed":         {&runtimeapi.AuthConfig{Username: "stranger", Password: "secret"}, "", fault.PermissionDenied},
		"user and password":   {&runtimeapi.AuthConfig{Username: "me", Password: "secret"}, "", nil},
		"auth":                {&runtimeapi.AuthConfig{Auth: basic}, "", nil},
		"auth is garbage":     {&runtimeapi.AuthConfig{Auth: "???"}, "", fault.Invalid},
		"for this server":     {&runtimeapi.AuthConfig{Auth: basic, ServerAddress: "http://" + r.host + "/v2/"}, "", nil},
		"for another server":  {&runtimeapi.AuthConfig{Auth: basic, ServerAddress: "docker.io"}, "", fault.Unauthenticated},
		"docker's config":     {nil, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.host, basic), nil},
		"damaged config":      {nil, `{`, fault.Unauthenticated},
		"config for another":  {nil, fmt.Sprintf(`{"auths":{"example.com":{"auth":%q}}}`, basic), fault.Unauthenticated},
		"own before config's": {&runtimeapi.AuthConfig{Username: "me", Password: "secret"}, `{"auths":{}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if c.config != "" {
				setDockerConfig(t, c.config)
			}
			_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, &image.PullOptions{Auth: c.auth})
			if (c.kind == nil && err != nil) || !errors.Is(err, c.kind) {
				t.Errorf("Pull: %v; want %v", err, c.kind)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), basic)) {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// TestPullTokens: a registry that wants tokens, as most do, is asked with one that its
// token service gives for the credentials, and with a new one when that has run out.
func TestPullTokens(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "private:v1", imageOf(t, layerOf(t, file("a", "b"))))
	var given atomic.Int64 // tokens
	var asked atomic.Int64 // times that a manifest or a blob was asked for with a good one
	token := func(w http.ResponseWriter, req *http.Request) {
		user, password, basic := req.BasicAuth()
		good := basic && user == "me" && password == "secret" || req.Method == http.MethodPost && req.PostFormValue("refresh_token") == "identity"
		scope := req.FormValue("scope")
		if !good || !strings.Contains(scope, "private:pull") || req.FormValue("service") != "test" {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":"t%[1]d","access_token":"t%[1]d"}`, given.Add(1))
	}
	r.on(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			token(w, req)
			return true
		}
		// A token is good for the first two requests.
		n, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if n == "registry" || n == fmt.Sprint("t", given.Load()) && asked.Add(1) <= 2*given.Load() {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:private:pull"`, r.host))
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return true
	})
	for name, c := range map[string]struct {
		auth   *runtimeapi.AuthConfig
		tokens bool
		kind   error
	}{
		"none":              {nil, false, fault.Unauthenticated},
		"wrong":             {&runtimeapi.AuthConfig{Username: "me", Password: "guess"}, false, fault.Unauthenticated},
		"user and password": {&runtimeapi.AuthConfig{Username: "me", Password: "secret"}, true, nil},
		"identity token":    {&runtimeapi.AuthConfig{IdentityToken: "identity"}, true, nil},
		"registry token":    {&runtimeapi.AuthConfig{RegistryToken: "registry"}, false, nil},
	} {
		given.Store(0)
		asked.Store(0)
		_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, &image.PullOptions{Auth: c.auth})
		if (c.kind == nil && err != nil) || !errors.Is(err, c.kind) {
			t.Errorf("%s: Pull: %v; want %v", name, err, c.kind)
		}
		if got := given.Load(); c.tokens && got < 2 || !c.tokens && got > 0 {
			t.Errorf("%s: %d tokens were given", name, got)
		}
	}
}

func TestPullErrors(t *testing.T) {
	r := newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")))
	ref := r.push(t, "app:v1", im)
	broken := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if strings.Contains(req.URL.Path, "/manifests/") {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(code)
				return true
			}
			return false
		}
	}
	corrupt := func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return false
		}
		io.WriteString(w, "something else")
		return true
	}
	layers, err := im.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	incomplete := func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, layer.String()) {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	const config = "no json"
	odd := func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case strings.Contains(req.URL.Path, "/manifests/"):
			fmt.Fprintf(w, `{"schemaVersion":2,"config":{"digest":"sha256:%x","size":%d},"layers":[]}`, sha256.Sum256([]byte(config)), len(config))
		case strings.Contains(req.URL.Path, "/blobs/"):
			io.WriteString(w, config)
		default:
			return false
		}
		return true
	}
	for name, c := range map[string]struct {
		ref   string
		serve func(http.ResponseWriter, *http.Request) bool
		kind  error
		text  string
	}{
		"incomplete":    {ref, incomplete, fault.NotFound, "push the image again"},
		"odd config":    {ref, odd, fault.Invalid, "is damaged"},
		"no reference":  {"Not A Name", nil, fault.Invalid, "want [REGISTRY/]REPOSITORY"},
		"no such tag":   {strings.Replace(ref, "v1", "v2", 1), nil, fault.NotFound, "check its name and tag"},
		"no such image": {r.host + "/none:v1", nil, fault.NotFound, "has no such image"},
		"refused":       {"127.0.0.1:1/app:v1", nil, fault.Unavailable, "cannot be reached"},
		"busy":          {ref, broken(http.StatusTooManyRequests), fault.Unavailable, "cannot serve it now"},
		"corrupt":       {ref, corrupt, nil, ""},
		"odd status":    {ref, broken(http.StatusTeapot), fault.Internal, r.host},
	} {
		t.Run(name, func(t *testing.T) {
			serve := c.serve
			if serve == nil {
				serve = func(http.ResponseWriter, *http.Request) bool { return false }
			}
			r.on(serve)
			store := t.TempDir()
			s := open(t, store, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := s.Pull(ctx, c.ref, nil)
			if err == nil || (c.kind != nil && !errors.Is(err, c.kind)) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Pull: %v; want %v with %q", err, c.kind, c.text)
			}
			if _, err := s.CRI().Pull(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: c.ref}}); errors.Is(c.kind, fault.Unavailable) != strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
				t.Errorf("over the CRI: %v", err)
			}
			wantEmpty(t, store)
		})
	}
}

// TestPullErrorOverCRI: one sentence, in which each name comes once, and which
// a kubelet recognises.
func TestPullErrorOverCRI(t *testing.T) {
	_, err := open(t, t.TempDir(), nil).CRI().Pull(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "127.0.0.1:1/app:v1"}})
	const want = `RegistryUnavailable: pulling image "127.0.0.1:1/app:v1": registry "127.0.0.1:1" cannot be reached: dial tcp 127.0.0.1:1: connect: connection refused`
	if s, ok := status.FromError(err); !ok || s.Code() != codes.Unknown || s.Message() != want {
		t.Errorf("the error is %v\nwant %s", err, want)
	}
	if !errors.Is(err, fault.Unavailable) {
		t.Errorf("the error is not of kind %q", fault.Unavailable)
	}
}
