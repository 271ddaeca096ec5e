package image

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// dockerHub is the name under which users, docker and the kubelet know the
// registry that go-containerregistry calls index.docker.io.
const dockerHub = "docker.io"

// parse reads a reference as users write it: "busybox", "repo/app:tag",
// "registry:5000/app@sha256:...".
func parse(ref string, how ...name.Option) (name.Reference, error) {
	r, err := name.ParseReference(ref, append(how, name.WeakValidation)...)
	if err != nil {
		return nil, fault.Invalid.Errorf("image reference %q: want [REGISTRY/]REPOSITORY[:TAG|@sha256:DIGEST]", ref)
	}
	return r, nil
}

// Normalize returns the full form of a reference, in which names are stored
// and reported: "busybox" is "docker.io/library/busybox:latest". A reference
// with a digest loses its tag. What is no reference is fault.Invalid.
func Normalize(ref string) (string, error) {
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	return canonical(r), nil
}

func canonical(r name.Reference) string {
	if d, ok := r.(name.Digest); ok {
		return repository(r) + "@" + d.DigestStr()
	}
	return repository(r) + ":" + r.Identifier()
}

func repository(r name.Reference) string {
	registry := r.Context().RegistryStr()
	if registry == name.DefaultRegistry {
		registry = dockerHub
	}
	return registry + "/" + r.Context().RepositoryStr()
}

// imageID returns the image id that ref spells out, with or without its
// "sha256:", or "" when it is a name.
func imageID(ref string) string {
	h, err := v1.NewHash("sha256:" + strings.TrimPrefix(ref, "sha256:"))
	if err != nil {
		return ""
	}
	return h.String()
}
