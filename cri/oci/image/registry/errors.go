package registry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// explain gives an error of the endpoint, or of the way to it, a kind and a sentence that
// says what to do.
func (e *endpoint) explain(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		return e.explainStatus(te)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return fault.Unavailable.Errorf("%s is unknown: check the name: %w", e.place, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// Only the cause, without the requests that it is wrapped in.
	var op *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &op):
		err = op
	case errors.As(err, &request):
		err = request.Err
	}
	if errors.Is(err, fault.Unavailable) {
		return err
	}
	return fault.Unavailable.Errorf("%s cannot be reached: %w", e.place, err)
}

// explainBroken gives an error of an established connection a kind.
func (e *endpoint) explainBroken(err error) error {
	if errors.Is(err, fault.Unavailable) {
		return err
	}
	return fault.Unavailable.Errorf("%s broke the connection: %w", e.place, err)
}

// explainBlob is explain for a blob: it says what a missing one means.
func (e *endpoint) explainBlob(err error) error {
	var te *transport.Error
	if errors.Is(err, fault.NotFound) && errors.As(err, &te) {
		return fault.NotFound.Errorf("%s has the image's manifest and lacks what it lists: push the image again: %w", e.place, te)
	}
	return err
}

func (e *endpoint) explainStatus(te *transport.Error) error {
	switch code := te.StatusCode; {
	case code == http.StatusNotFound:
		return fault.NotFound.Errorf("%s has no such image: check its name and tag: %w", e.place, te)
	case code == http.StatusUnauthorized:
		return fault.Unauthenticated.Errorf("%s wants credentials for it, or the image does not exist: docker login %s: %w", e.place, e.login, te)
	case code == http.StatusForbidden:
		return fault.PermissionDenied.Errorf("%s does not allow these credentials to pull it: %w", e.place, te)
	case saysBusy(code):
		return e.explainBusy(te)
	case code < 500 && te.Request != nil && te.Request.Method == http.MethodPost: // usually with 400 (RFC 6749, 5.2)
		return fault.Unauthenticated.Errorf("the token service of %s does not take the identity token: docker login %s: %w", e.place, e.login, te)
	case code >= 500:
		return fault.Unavailable.Errorf("%s cannot serve it now: %w", e.place, te)
	}
	return fault.Internal.Errorf("%s: %w", e.place, te)
}
