package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/cri/oci/image/registry/hosts"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// endpoint is one place that serves a repository: its registry or a mirror.
type endpoint struct {
	host  hosts.Host
	place string // for people
	login string // its name for docker login
	ns    string // the registry that a mirror stands for; empty for the registry itself

	reg     name.Registry
	repo    string
	id      string // a tag or digest in repo
	auth    authn.Authenticator
	inner   http.RoundTripper
	timeout time.Duration

	down  atomic.Bool // it failed recently
	leave leave

	mu     sync.Mutex
	client *client // nil until it is connected
}

// client authenticates at one endpoint.
type client struct {
	http.Client
	served atomic.Bool // its credentials have been accepted before
}

func newEndpoint(ref name.Reference, h hosts.Host, opts *Options) (*endpoint, error) {
	e := &endpoint{host: h, reg: ref.Context().Registry, repo: ref.Context().RepositoryStr(), id: ref.Identifier(), timeout: opts.Stall}
	e.login = registryName(ref)
	e.place = fmt.Sprintf("registry %q", e.login)
	plain := opts.PlainHTTP
	if h.URL != nil {
		reg, err := name.NewRegistry(registryHost(h.URL))
		if err != nil {
			return nil, fault.FailedPrecondition.Errorf("hosts.toml of registry %q: host %q: %w", registryName(ref), h.URL.Host, err)
		}
		if reg.Name() != e.reg.Name() {
			e.ns = registryName(ref)
			e.login = h.URL.Host
			e.place = fmt.Sprintf("mirror %q", h.URL.String())
		}
		e.reg = reg
		plain = plain || h.URL.Scheme == "http"
	}
	var err error
	if e.auth, err = authenticator(e.reg.Repo(e.repo), e.ns == "", opts.Auth); err != nil {
		return nil, err
	}
	wire, err := wireTo(h)
	if err != nil {
		return nil, err
	}
	guarded := &httpGuard{next: wire, allow: plain, loopback: isLoopback(hostname(e.reg.RegistryStr()))}
	e.inner = &ownRequests{next: guarded, endpoint: e}
	return e, nil
}

// registryHost returns the registry of a host in hosts.toml, under the name that
// go-containerregistry uses: docker.io's server has several names, and the default port
// does not make it a different place.
func registryHost(u *url.URL) string {
	host := u.Host
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	if isDockerHub(host) {
		return name.DefaultRegistry
	}
	return host
}

func isDockerHub(host string) bool {
	return host == content.DockerHub || host == "registry-1.docker.io" || host == name.DefaultRegistry
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// wireTo returns the transport of a host: the shared one, or its own if the host has its
// own certificates or timeout.
func wireTo(h hosts.Host) (http.RoundTripper, error) {
	if len(h.CA) == 0 && len(h.Client) == 0 && !h.SkipVerify && h.DialTimeout == 0 {
		return remote.DefaultTransport, nil
	}
	cfg := &tls.Config{InsecureSkipVerify: h.SkipVerify}
	for _, path := range h.CA {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.FailedPrecondition.Errorf("reading the certificates to trust: %w", err)
		}
		if cfg.RootCAs == nil {
			if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
				return nil, fault.FailedPrecondition.Errorf("reading the machine's certificates: %w", err)
			}
		}
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.FailedPrecondition.Errorf("%s holds no certificate in PEM", path)
		}
	}
	for _, pair := range h.Client {
		cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, fault.FailedPrecondition.Errorf("reading the client certificate %s: %w", pair.Cert, err)
		}
		cfg.Certificates = append(cfg.Certificates, cert)
	}
	dial := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if h.DialTimeout > 0 {
		dial.Timeout = h.DialTimeout
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial.DialContext, TLSClientConfig: cfg,
		ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second, // it serves one pull
	}, nil
}

// ownRequests adds the headers configured by the administrator to requests to the
// endpoint, but not to hosts that they are redirected to. It sends the very first
// request, which finds out how to authenticate, to the API's actual location. It records
// from all responses how long the endpoint does not want to be asked.
type ownRequests struct {
	next     http.RoundTripper
	endpoint *endpoint
}

func (o *ownRequests) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(o.adapted(r))
	if err == nil {
		o.endpoint.leave.note(resp)
	}
	return resp, err
}

func (o *ownRequests) adapted(r *http.Request) *http.Request {
	e := o.endpoint
	if r.URL.Host != e.reg.RegistryStr() {
		return r
	}
	r = r.Clone(r.Context())
	for key, values := range e.host.Header {
		if key != "Authorization" || r.Header.Get(key) == "" { // a token may have been obtained with it
			r.Header[key] = values
		}
	}
	if e.host.URL != nil && r.URL.Path == "/v2/" {
		r.URL.Scheme, r.URL.Path = e.host.URL.Scheme, e.host.URL.Path+"/"
		if e.host.OverridePath { // what is there is unknown; the image is below it
			r.URL = e.url("manifests", e.id)
		}
	}
	return r
}

// url returns the URL of a manifest or a blob.
func (e *endpoint) url(kind, id string) *url.URL {
	u := &url.URL{Scheme: e.reg.Scheme(), Host: e.reg.RegistryStr(), Path: "/v2"}
	if e.host.URL != nil {
		u.Scheme, u.Path = e.host.URL.Scheme, e.host.URL.Path
	}
	u.Path += "/" + e.repo + "/" + kind + "/" + id
	if e.ns != "" {
		u.RawQuery = url.Values{"ns": {e.ns}}.Encode()
	}
	return u
}

// connected returns an authenticated client for the endpoint. A failure is not kept: the
// next call tries again.
func (e *endpoint) connected(ctx context.Context) (*client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	rt, err := transport.NewWithContext(ctx, e.reg, e.auth, transport.NewUserAgent(e.inner, "nodekit"),
		[]string{e.reg.Repo(e.repo).Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	e.client = &client{Client: http.Client{Transport: transport.NewRetry(rt,
		transport.WithRetryBackoff(transport.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
		transport.WithRetryPredicate(isBroken),
		transport.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusGatewayTimeout))}}
	return e.client, nil
}

// forget makes the next call connect anew, unless that has been done meanwhile.
func (e *endpoint) forget(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client == c {
		e.client = nil
	}
}

// isBroken reports whether a request failed because of the connection.
func isBroken(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, errReset) || errors.Is(err, errPipe) || errors.As(err, &temporary) && temporary.Temporary()
}

// get makes a request. The caller closes the body of the response, whose status is one of
// those wanted.
//
// A client whose credentials were accepted before and no longer are is replaced, once:
// its token may have expired, and the means that it got to renew it may be invalid.
func (e *endpoint) get(ctx context.Context, u *url.URL, header http.Header, want ...int) (*http.Response, error) {
	c, err := e.connected(ctx)
	if err != nil {
		return nil, e.explain(err)
	}
	resp, err := c.get(ctx, u, header, want...)
	if err != nil && c.served.Load() && refusesToken(err, u) {
		e.forget(c)
		if c, err = e.connected(ctx); err == nil {
			resp, err = c.get(ctx, u, header, want...)
		}
	}
	if err != nil {
		return nil, e.explain(err)
	}
	c.served.Store(true)
	return resp, nil
}

// refusesToken reports whether a request to u failed because of its token, or because no
// token could be obtained.
func refusesToken(err error, u *url.URL) bool {
	var te *transport.Error
	if !errors.As(err, &te) {
		return false
	}
	forToken := te.Request != nil && te.Request.URL.Path != u.Path && te.Request.Response == nil
	return te.StatusCode == http.StatusUnauthorized || forToken && te.StatusCode < 500
}

func (c *client) get(ctx context.Context, u *url.URL, header http.Header, want ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// The content is verified by its digest, so it must arrive unencoded.
	req.Header = header.Clone()
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, want...); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// manifest reads a manifest or index.
func (e *endpoint) manifest(ctx context.Context, id string) (document, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.timeout, errStalled)
	defer cancel()
	resp, err := e.get(ctx, e.url("manifests", id), http.Header{"Accept": {accepted}}, http.StatusOK)
	if err != nil {
		return document{}, because(ctx, e, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return document{}, because(ctx, e, e.explain(err))
	}
	if len(raw) > maxManifest {
		return document{}, fault.Invalid.Errorf("%s serves a manifest of more than %d bytes", e.place, maxManifest)
	}
	// Parameters such as charset have no meaning for JSON.
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	d, err := parseDocument(raw, types.MediaType(mediaType))
	if err != nil {
		return d, fmt.Errorf("%s: %w", e.place, err)
	}
	for _, announced := range []string{id, resp.Header.Get("Docker-Content-Digest")} {
		if strings.HasPrefix(announced, "sha256:") && announced != d.digest.String() {
			return d, fault.Invalid.Errorf("%s serves a manifest with the digest %q as %q: it is corrupt", e.place, d.digest, announced)
		}
	}
	return d, nil
}

// accepted are the supported media types of manifests.
const accepted = string(types.OCIManifestSchema1) + ", " + string(types.DockerManifestSchema2) + ", " +
	string(types.OCIImageIndex) + ", " + string(types.DockerManifestList)
