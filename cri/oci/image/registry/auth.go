package registry

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// authenticator returns the credentials for a repository: the given ones, unless they are
// for another server, else the user's own. Given credentials without a server are for the
// image's own registry (own), not for its mirrors.
func authenticator(repo name.Repository, own bool, given *runtimeapi.AuthConfig) (authn.Authenticator, error) {
	if !isEmpty(given) && isFor(given.ServerAddress, repo.RegistryStr(), own) {
		cfg := authn.AuthConfig{Username: given.Username, Password: given.Password, IdentityToken: given.IdentityToken, RegistryToken: given.RegistryToken}
		if given.Auth != "" && cfg.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(given.Auth)
			user, password, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
			if err != nil || !ok {
				return nil, fault.Invalid.Errorf("registry credentials: auth is not the base64 of USER:PASSWORD")
			}
			cfg.Username, cfg.Password = user, password
		}
		return authn.FromConfig(cfg), nil
	}
	auth, err := authn.DefaultKeychain.Resolve(repo)
	if err != nil {
		return nil, fault.Unauthenticated.Errorf("reading the docker configuration for credentials: %w", err)
	}
	return auth, nil
}

func isEmpty(a *runtimeapi.AuthConfig) bool {
	return a == nil || a.Username == "" && a.Password == "" && a.Auth == "" && a.IdentityToken == "" && a.RegistryToken == ""
}

// isFor reports whether credentials for server, a host or a URL as in docker's
// configuration, are meant for the registry. Credentials without a server are, if the
// registry is the image's own.
func isFor(server, registry string, own bool) bool {
	if server == "" {
		return own
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	return registryHost(u) == registry
}

// AuthKey returns the same text for the same credentials without revealing them. It is
// empty if there are none.
func AuthKey(a *runtimeapi.AuthConfig) string {
	if isEmpty(a) {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{a.Username, a.Password, a.Auth, a.ServerAddress, a.IdentityToken, a.RegistryToken}, "\x00")))
	return hex.EncodeToString(sum[:])
}

// httpGuard refuses requests without TLS to other machines, including redirected ones.
// go-containerregistry would send them to private addresses. A server elsewhere must not
// redirect to this machine, and no server may redirect a request with its body to another
// host: the body of a token request contains an identity token.
type httpGuard struct {
	next            http.RoundTripper
	allow, loopback bool // plain http to any machine; to this machine
}

func (g *httpGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !g.allow && !(g.loopback && isLoopback(r.URL.Hostname())) {
		return nil, fault.Unavailable.Errorf(
			"%q was not reached by https; plain http is for this machine's own registries, unless it is allowed (--plain-http)", r.URL.Host)
	}
	if sender := redirectedBy(r); sender != "" && sender != r.URL.Host && r.Body != nil && r.Body != http.NoBody {
		return nil, fault.Unavailable.Errorf("%q redirects credentials to %q: they go to no other host", sender, r.URL.Host)
	}
	return g.next.RoundTrip(r)
}

// redirectedBy returns the host that redirected to a request, or "".
func redirectedBy(r *http.Request) string {
	if r.Response == nil || r.Response.Request == nil {
		return ""
	}
	return r.Response.Request.URL.Host
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
