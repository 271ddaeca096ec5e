package content

import (
	"regexp"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// DockerHub is the name under which users, docker and the kubelet know the
// registry that go-containerregistry calls index.docker.io.
const DockerHub = "docker.io"

// The allowed parts of a reference (OCI distribution specification v1.1, "Pulling
// manifests"). The registry is a directory name in the configuration of mirrors, the
// others are parts of a URL: none of them may contain a path element ".." or ".".
var (
	registryWord   = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(:[0-9]+)?$`)
	repositoryWord = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagWord        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// ParseReference parses a reference as users write it: "busybox", "repo/app:tag",
// "registry:5000/app@sha256:...". If it is not a reference, the error is fault.Invalid.
func ParseReference(ref string, how ...name.Option) (name.Reference, error) {
	r, err := name.ParseReference(ref, append(how, name.WeakValidation)...)
	if err == nil {
		tag, tagged := r.(name.Tag)
		if registryWord.MatchString(r.Context().RegistryStr()) && repositoryWord.MatchString(r.Context().RepositoryStr()) &&
			(!tagged || tagWord.MatchString(tag.TagStr())) {
			return r, nil
		}
	}
	return nil, fault.Invalid.Errorf("image reference %q: want [REGISTRY/]REPOSITORY[:TAG|@sha256:DIGEST]", ref)
}

// Normalize returns the full form of a reference as users write it.
func Normalize(ref string) (string, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return "", err
	}
	return Canonical(r), nil
}

// Canonical returns the full form of a reference, in which names are stored and reported:
// "busybox" is "docker.io/library/busybox:latest". A reference with a digest loses its
// tag.
func Canonical(r name.Reference) string {
	if d, ok := r.(name.Digest); ok {
		return Repository(r) + "@" + d.DigestStr()
	}
	return Repository(r) + ":" + r.Identifier()
}

// Repository returns the full form of a reference without tag and digest.
func Repository(r name.Reference) string {
	registry := r.Context().RegistryStr()
	if registry == name.DefaultRegistry {
		registry = DockerHub
	}
	return registry + "/" + r.Context().RepositoryStr()
}
