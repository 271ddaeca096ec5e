package image_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// tokens is a registry that wants a token of its own token service.
func tokens(r *testRegistry, service func(http.ResponseWriter, *http.Request) bool, good func(token string) bool) {
	r.on(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasPrefix(req.URL.Path, "/token") {
			return service(w, req)
		}
		if token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); token != "" && good(token) {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:private:pull"`, r.host))
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return true
	})
}

// TestPullKeepsTokens: what is exchanged for a token goes to the service that the registry
// names, and not to where that service sends it on to.
func TestPullKeepsTokens(t *testing.T) {
	r, other := newRegistry(t), newRegistry(t)
	ref := r.push(t, "private:v1", imageOf(t, layerOf(t, file("a", "b"))))
	var leaked atomic.Bool
	other.on(func(w http.ResponseWriter, req *http.Request) bool {
		body, _ := io.ReadAll(req.Body)
		if req.Header.Get("Authorization") != "" || strings.Contains(string(body)+req.URL.RawQuery, "secret") {
			leaked.Store(true)
		}
		fmt.Fprint(w, `{"token":"good"}`)
		return true
	})
	_, port, _ := strings.Cut(other.host, ":")
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		tokens(r, func(w http.ResponseWriter, req *http.Request) bool {
			http.Redirect(w, req, "http://localhost:"+port+"/token", code)
			return true
		}, func(token string) bool { return token == "good" })
		for name, auth := range map[string]*runtimeapi.AuthConfig{
			"identity token": {IdentityToken: "secret"},
			"password":       {Username: "me", Password: "secret"},
		} {
			_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, &image.PullOptions{Auth: auth})
			if sentOn := auth.IdentityToken != "" && code != http.StatusFound; sentOn != errors.Is(err, fault.Unavailable) {
				t.Errorf("%s redirected with %d: Pull: %v", name, code, err)
			}
			if leaked.Swap(false) {
				t.Errorf("%s redirected with %d: another host was sent it", name, code)
			}
		}
	}
}

// TestPullTokensRunOut in the middle of a pull, where the token service gives tokens to
// renew them with and takes those, or does not. What the credentials are good for counts.
func TestPullTokensRunOut(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "private:v1", imageOf(t, layerOf(t, file("a", "b"))))
	for _, refused := range []int{0, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed} {
		for _, renewal := range []string{"", "renewal"} {
			var given, asked atomic.Int64
			service := func(w http.ResponseWriter, req *http.Request) bool {
				user, password, _ := req.BasicAuth()
				code := http.StatusUnauthorized
				switch {
				case req.Method == http.MethodPost && refused > 0:
					code = refused
				case req.Method == http.MethodPost && req.PostFormValue("refresh_token") == "renewal", user == "me" && password == "secret":
					fmt.Fprintf(w, `{"token":"t%d","refresh_token":%q}`, given.Add(1), renewal)
					return true
				}
				w.WriteHeader(code)
				return true
			}
			// A token is good for the first two requests.
			tokens(r, service, func(token string) bool {
				return token == fmt.Sprint("t", given.Load()) && asked.Add(1) <= 2*given.Load()
			})
			_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, &image.PullOptions{Auth: &runtimeapi.AuthConfig{Username: "me", Password: "secret"}})
			if err != nil || given.Load() < 2 {
				t.Errorf("renewing with %q, refused with %d: Pull: %v, with %d tokens", renewal, refused, err, given.Load())
			}
		}
	}
}

// TestPullRefusedIdentityToken: whatever the token service answers, the reason is the token.
func TestPullRefusedIdentityToken(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "private:v1", imageOf(t, layerOf(t, file("a", "b"))))
	for _, code := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed} {
		tokens(r, func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodPost {
				http.Error(w, `{"error":"invalid_grant"}`, code)
				return true
			}
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, func(string) bool { return false })
		_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, &image.PullOptions{Auth: &runtimeapi.AuthConfig{IdentityToken: "secret"}})
		if !errors.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), "secret") {
			t.Errorf("refused with %d: Pull: %v; want fault.Unauthenticated", code, err)
		}
	}
}
