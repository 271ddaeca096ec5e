package image

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
	r, err := parse("registry.invalid/app")
	if err != nil {
		t.Fatal(err)
	}
	dns := fmt.Errorf("get: %w", &net.OpError{Err: &net.DNSError{Name: "registry.invalid", IsNotFound: true}})
	const want = `registry "registry.invalid" is unknown: check the name: get: : lookup registry.invalid: `
	if got := explain(r, dns); !errors.Is(got, fault.Unavailable) || got.Error() != want {
		t.Errorf("explain: %v; want fault.Unavailable, %q", got, want)
	}
	if got := explain(r, fmt.Errorf("get: %w", context.Canceled)); !errors.Is(got, context.Canceled) || errors.Is(got, fault.Unavailable) {
		t.Errorf("explain(canceled): %v", got)
	}
}

type answers struct{}

func (answers) RoundTrip(*http.Request) (*http.Response, error) { return &http.Response{}, nil }

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
		if _, err := (&httpGuard{next: answers{}, allow: c.allow}).RoundTrip(req); (err == nil) != c.ok {
			t.Errorf("%s, allowed %v: %v", c.url, c.allow, err)
		}
	}
}

func TestNormalize(t *testing.T) {
	const digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for ref, want := range map[string]string{
		"busybox":                         "docker.io/library/busybox:latest",
		"busybox:1.36":                    "docker.io/library/busybox:1.36",
		"docker.io/busybox":               "docker.io/library/busybox:latest",
		"index.docker.io/library/busybox": "docker.io/library/busybox:latest",
		"me/app":                          "docker.io/me/app:latest",
		"nodekit.dev/podtool":             "nodekit.dev/podtool:latest",
		"localhost:5000/app:v1":           "localhost:5000/app:v1",
		"app:v1@" + digest:                "docker.io/library/app@" + digest,
		"":                                "",
		"A":                               "",
		"app@sha256:short":                "",
		"a b":                             "",
	} {
		got, err := Normalize(ref)
		if got != want || (err == nil) != (want != "") || (err != nil && !errors.Is(err, fault.Invalid)) {
			t.Errorf("Normalize(%q) = %q, %v; want %q", ref, got, err, want)
		}
		if again, err := Normalize(got); want != "" && (again != got || err != nil) {
			t.Errorf("Normalize(%q) = %q, %v; want it unchanged", got, again, err)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add("docker.io/library/busybox:latest")
	f.Fuzz(func(t *testing.T, ref string) {
		full, err := Normalize(ref)
		if err != nil {
			return
		}
		if again, err := Normalize(full); err != nil || again != full {
			t.Errorf("Normalize(%q) = %q, and of that %q, %v", ref, full, again, err)
		}
	})
}
