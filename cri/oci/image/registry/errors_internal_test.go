package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestExplainUnknownHost(t *testing.T) {
	e := &endpoint{place: `registry "registry.invalid"`}
	dns := fmt.Errorf("get: %w", &net.OpError{Err: &net.DNSError{Name: "registry.invalid", IsNotFound: true}})
	const want = `registry "registry.invalid" is unknown: check the name: get: : lookup registry.invalid: `
	if got := e.explain(dns); !errors.Is(got, fault.Unavailable) || got.Error() != want {
		t.Errorf("explain: %v; want fault.Unavailable, %q", got, want)
	}
	if got := e.explain(fmt.Errorf("get: %w", context.Canceled)); !errors.Is(got, context.Canceled) || errors.Is(got, fault.Unavailable) {
		t.Errorf("explain(canceled): %v", got)
	}
}

type answers struct{}

func (answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{Body: http.NoBody}, nil
}

func TestHTTPGuard(t *testing.T) {
	for _, c := range []struct {
		url   string
		allow bool
		ok    bool
	}{
		{"https://10.0.0.1/v2/", false, true},
		{"http://10.0.0.1/v2/", false, false},
		{"http://10.0.0.1/v2/", true, true},
		{"http://localhost.example.com/v2/", false, false},
		{"http://localhost:5000/v2/", false, true},
		{"http://127.0.0.2:5000/v2/", false, true},
		{"http://[::1]:5000/v2/", false, true},
	} {
		req, err := http.NewRequest(http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&httpGuard{next: answers{}, allow: c.allow, loopback: true}).RoundTrip(req)
		if (err == nil) != c.ok {
			t.Errorf("%s, allowed %v: %v", c.url, c.allow, err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}
