package image

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// authenticator returns the credentials for the registry of r: the given ones,
// unless they are for another server, or else the user's own.
func authenticator(r name.Reference, given *runtimeapi.AuthConfig) (authn.Authenticator, error) {
	if !isEmpty(given) && isFor(given.ServerAddress, r.Context().RegistryStr()) {
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
	auth, err := authn.DefaultKeychain.Resolve(r.Context())
	if err != nil {
		return nil, fault.Unauthenticated.Errorf("reading the docker configuration for credentials: %w", err)
	}
	return auth, nil
}

func isEmpty(a *runtimeapi.AuthConfig) bool {
	return a == nil || a.Username == "" && a.Password == "" && a.Auth == "" && a.IdentityToken == "" && a.RegistryToken == ""
}

// isFor reports whether credentials for server, a host or a URL as in docker's
// configuration, are meant for the registry. Those for no server are.
func isFor(server, registry string) bool {
	if server == "" {
		return true
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := u.Host
	if host == dockerHub || host == "registry-1.docker.io" {
		host = name.DefaultRegistry
	}
	return host == registry
}

// authKey tells credentials apart without showing them.
func authKey(a *runtimeapi.AuthConfig) string {
	if isEmpty(a) {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{a.Username, a.Password, a.Auth, a.ServerAddress, a.IdentityToken, a.RegistryToken}, "\x00")))
	return hex.EncodeToString(sum[:])
}

// httpGuard refuses requests without TLS to other machines.
// go-containerregistry would make them to private addresses.
type httpGuard struct {
	next  http.RoundTripper
	allow bool
}

func (g *httpGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !g.allow && !isLoopback(r.URL.Hostname()) {
		return nil, fault.Unavailable.Errorf("%q was not reached by https, and plain http is only used for this machine's own registries unless it is allowed (--plain-http)", r.URL.Host)
	}
	return g.next.RoundTrip(r)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// explain gives an error of the registry or of the way to it a kind, and a
// sentence that says what to do.
func explain(r name.Reference, err error) error {
	registry := strings.SplitN(repository(r), "/", 2)[0]
	var te *transport.Error
	if errors.As(err, &te) {
		return explainStatus(registry, te)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return fault.Unavailable.Errorf("registry %q is unknown: check the name: %w", registry, err)
	}
	var netErr net.Error
	var op *net.OpError
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.As(err, &netErr) || errors.As(err, &op) {
		return fault.Unavailable.Errorf("registry %q cannot be reached: %w", registry, err)
	}
	return err
}

func explainStatus(registry string, te *transport.Error) error {
	switch code := te.StatusCode; {
	case code == http.StatusNotFound:
		return fault.NotFound.Errorf("registry %q has no such image: check its name and tag: %w", registry, te)
	case code == http.StatusUnauthorized:
		return fault.Unauthenticated.Errorf("registry %q wants credentials for it, or the image does not exist: docker login %s: %w", registry, registry, te)
	case code == http.StatusForbidden:
		return fault.PermissionDenied.Errorf("registry %q does not allow these credentials to pull it: %w", registry, te)
	case code == http.StatusTooManyRequests || code >= 500:
		return fault.Unavailable.Errorf("registry %q cannot serve it now: %w", registry, te)
	}
	return fault.Internal.Errorf("registry %q: %w", registry, te)
}
