package registry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// explain gives an error of the registry or of the way to it a kind, and a
// sentence that says what to do.
func explain(r name.Reference, err error) error {
	registry := strings.SplitN(content.Repository(r), "/", 2)[0]
	var te *transport.Error
	if errors.As(err, &te) {
		return explainStatus(registry, te)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return fault.Unavailable.Errorf("registry %q is unknown: check the name: %w", registry, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// What went wrong, without the requests that it went wrong in.
	var op *net.OpError
	var request *url.Error
	var netErr net.Error
	switch {
	case errors.As(err, &op):
		err = op
	case errors.As(err, &request):
		err = request.Err
	case !errors.As(err, &netErr):
		return err
	}
	return fault.Unavailable.Errorf("registry %q cannot be reached: %w", registry, err)
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
