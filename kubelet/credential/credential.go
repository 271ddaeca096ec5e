// Package credential selects the credentials for an image from a Pod's pull Secrets: it
// reads Secrets of the types kubernetes.io/dockerconfigjson and
// kubernetes.io/dockercfg, and matches the registries that they name by the rules of
// the kubelet (Kubernetes' documentation, "Images", "Interpretation of config.json").
//
// It is pure: callers fetch the Secrets and pull the images. It does not support
// credential helpers, which are programs of the node and not in a Secret. Its errors
// never quote a Secret's data.
package credential

import (
	"cmp"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Keyring holds the credentials of Secrets. The zero value is empty. A Keyring is made
// for one pull and is not safe for concurrent use.
type Keyring struct{ entries []entry }

// entry is a login for the images at a location.
type entry struct {
	at location
	login
}

// login holds one user's credentials for a registry.
type login struct{ username, password, identityToken, registryToken string }

// Add appends the credentials of a Secret. Its error, fault.Invalid, says which parts
// of the Secret cannot be used; the rest is added nevertheless.
func (k *Keyring) Add(s *v1.Secret) error {
	entries, err := read(s)
	k.entries = append(k.entries, entries...)
	return err
}

// For returns the credentials for an image, named as in a Pod, in the order in which to
// try them: those for a more specific location first, and among equally specific ones
// those added first. For an invalid image name it returns none. The result names no
// server, because it is for the image's own registry.
func (k *Keyring) For(image string) []*runtimeapi.AuthConfig {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil
	}
	repository := ref.Context()
	target := locate(repository.RegistryStr(), "/"+repository.RepositoryStr())
	var found []entry
	for _, e := range k.entries {
		if e.at.covers(target) {
			found = append(found, e)
		}
	}
	slices.SortStableFunc(found, func(a, b entry) int { return a.at.compare(b.at) })
	var list []*runtimeapi.AuthConfig
	for i, e := range found {
		if slices.ContainsFunc(found[:i], func(tried entry) bool { return tried.login == e.login }) {
			continue
		}
		list = append(list, &runtimeapi.AuthConfig{
			Username: e.username, Password: e.password, IdentityToken: e.identityToken, RegistryToken: e.registryToken,
		})
	}
	return list
}

// compare is negative if l is more specific than other. The host counts before the
// path.
func (l location) compare(other location) int {
	return cmp.Or(
		cmp.Compare(l.patterns(), other.patterns()),
		cmp.Compare(len(other.host), len(l.host)),
		cmp.Compare(len(other.path), len(l.path)),
	)
}
