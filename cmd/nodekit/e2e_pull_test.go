package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// privateRegistry serves podtool to whoever knows the password.
func privateRegistry(t *testing.T, c *cli) (image string) {
	t.Helper()
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var guarded bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); guarded && (user != "me" || password != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	image = strings.TrimPrefix(server.URL, "http://") + "/demo/podtool:v1"
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	im, err := tarball.ImageFromPath(filepath.Join(c.bin, "images", "podtool.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// A layer that the node's store does not have from the archive already.
	layer, err := random.Layer(1<<20, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	if im, err = mutate.AppendLayers(im, layer); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, im); err != nil {
		t.Fatal(err)
	}
	guarded = true
	return image
}

func TestImageIsPulledWithTheUsersCredentials(t *testing.T) {
	c := newCLI(t)
	image := privateRegistry(t, c)
	manifest := c.write("p.yaml", strings.Replace(podRunning(`[do, "echo pulled"]`), "nodekit.dev/podtool:v1", image, 1))

	refused := c.start("run", manifest)
	refused.await(`wait .*` + image)
	refused.interrupt()
	refused.exit()
	c.clean(refused.out.String())

	config := t.TempDir()
	host, _, _ := strings.Cut(image, "/")
	docker := fmt.Sprintf(`{"auths": {%q: {"auth": "bWU6c2VjcmV0"}}}`, host)
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(docker), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", config)
	out, code := c.run("run", manifest)
	if code != 0 || !strings.Contains(out, "pull       "+image) || !strings.Contains(out, "main | pulled") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

// TestImageIsPulledWithThePodsSecret: the Pod's Secret is enough for a registry that
// asks for a password, and the one of another registry beside it does no harm.
func TestImageIsPulledWithThePodsSecret(t *testing.T) {
	c := newCLI(t)
	image := privateRegistry(t, c)
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nothing of the user's
	host, _, _ := strings.Cut(image, "/")
	secrets := ""
	for name, registry := range map[string]string{"other": "registry.invalid", "login": "http://" + host + "/v1/"} {
		config := fmt.Sprintf(`{"auths": {%q: {"auth": "bWU6c2VjcmV0"}}}`, registry)
		secrets += fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '%s'}\n---\n", name, config)
	}
	manifest := strings.Replace(podRunning(`[do, "echo pulled"]`), "nodekit.dev/podtool:v1", image, 1)
	manifest = strings.Replace(manifest, "spec:\n", "spec:\n  imagePullSecrets: [{name: other}, {name: login}]\n", 1)
	out, code := c.run("run", c.write("p.yaml", secrets+manifest))
	if code != 0 || !strings.Contains(out, "pull       "+image) || !strings.Contains(out, "main | pulled") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if strings.Contains(out, "imagePullSecrets") || strings.Contains(out, "bWU6c2VjcmV0") {
		t.Errorf("the Pod is warned of its field, or its Secret is told:\n%s", out)
	}
	c.clean(out)
}
