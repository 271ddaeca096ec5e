// Package credential knows which of the credentials in a Pod's pull Secrets are
// for an image: it reads Secrets of the types kubernetes.io/dockerconfigjson and
// kubernetes.io/dockercfg, and matches the registries that they name by the rules
// of the kubelet (Kubernetes' documentation, "Images", "Interpretation of
// config.json").
//
// It is pure: fetching Secrets and pulling images are its callers'. It knows no
// credential helpers, which are programs of the node and not in a Secret. No error
// of it quotes anything of a Secret's data.
package credential

import (
	"cmp"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Keyring holds the credentials of Secrets. The zero value is empty. It is made for
// one pull and not safe for concurrent use.
type Keyring struct{ entries []entry }

// entry is a login for the images at a location.
type entry struct {
	at location
	login
}

// login is how one user is known to a registry.
type login struct{ username, password, identityToken, registryToken string }

// Add adds the credentials of a Secret behind those that are there. Its error,
// fault.Invalid, says what of the Secret cannot be used; what can be is added all the
// same.
func (k *Keyring) Add(s *v1.Secret) error {
	entries, err := read(s)
	k.entries = append(k.entries, entries...)
	return err
}

// For returns the credentials for an image, named as in a Pod, in the order in which
// they are to be tried: those for the more specific location first, and of equally
// specific ones those that were added first. It returns none for a name that is none,
// and names no server in them: they are for the image's own registry.
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

// compare is negative if l says more exactly than other what it is for: the host
// counts before the path.
func (l location) compare(other location) int {
	return cmp.Or(
		cmp.Compare(l.patterns(), other.patterns()),
		cmp.Compare(len(other.host), len(l.host)),
		cmp.Compare(len(other.path), len(l.path)),
	)
}
