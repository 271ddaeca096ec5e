package content_test

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

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
		"[::1]:5000/a__b/c.d-e--f":        "[::1]:5000/a__b/c.d-e--f:latest",
		"UPPER.io/app:_T.1-x":             "UPPER.io/app:_T.1-x",
		"../app":                          "",
		"..:80/app":                       "",
		"./app":                           "",
		"a/../app":                        "",
		"a//app":                          "",
		"me/app/.":                        "",
		"host.io/app/":                    "",
		"host.io:/app":                    "",
		"-host.io/app":                    "",
		"-app":                            "",
		"a..b":                            "",
		"app:..":                          "",
		"app:-t":                          "",
	} {
		got, err := content.Normalize(ref)
		if got != want || (err == nil) != (want != "") || (err != nil && !errors.Is(err, fault.Invalid)) {
			t.Errorf("Normalize(%q) = %q, %v; want %q", ref, got, err, want)
		}
		if again, err := content.Normalize(got); want != "" && (again != got || err != nil) {
			t.Errorf("Normalize(%q) = %q, %v; want it unchanged", got, again, err)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add("docker.io/library/busybox:latest")
	f.Fuzz(func(t *testing.T, ref string) {
		full, err := content.Normalize(ref)
		if err != nil {
			return
		}
		if again, err := content.Normalize(full); err != nil || again != full {
			t.Errorf("Normalize(%q) = %q, and of that %q, %v", ref, full, again, err)
		}
	})
}
