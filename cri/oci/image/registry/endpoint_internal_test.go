package registry

import (
	"net/url"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/registry/hosts"
)

// The line that everybody writes for Docker Hub names its server, not a mirror:
// the image's credentials are for it.
func TestServerOfTheRegistryIsNoMirror(t *testing.T) {
	for _, c := range []struct {
		image, server, auth string
		own                 bool
	}{
		{"docker.io/me/app", "https://registry-1.docker.io", "", true},
		{"docker.io/me/app", "https://registry-1.docker.io:443", "https://index.docker.io/v1/", true},
		{"docker.io/me/app", "https://registry-1.docker.io", "registry-1.docker.io", true},
		{"docker.io/me/app", "https://mirror.example.com", "", false},
		{"docker.io/me/app", "https://mirror.example.com", "https://index.docker.io/v1/", false},
		{"quay.example.com/me/app", "https://quay.example.com:443", "quay.example.com", true},
		{"quay.example.com/me/app", "http://quay.example.com:443", "quay.example.com", false},
	} {
		ref, err := name.ParseReference(c.image)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(c.server)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("DOCKER_CONFIG", t.TempDir()) // the user's own credentials play no part
		e, err := newEndpoint(ref, hosts.Host{URL: u}, &Options{Auth: &runtimeapi.AuthConfig{Username: "me", Password: "secret", ServerAddress: c.auth}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.auth.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		if given := *got != (authn.AuthConfig{}); given != c.own || (e.ns == "") != c.own {
			t.Errorf("%s at %s with credentials for %q: given %v, mirror of %q; want them given: %v", c.image, c.server, c.auth, given, e.ns, c.own)
		}
	}
}
