package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// errAuth is the error of an auth field that cannot be read. It quotes nothing.
var errAuth = errors.New("auth is not the base64 of USER:PASSWORD")

// read returns the entries of a Secret in the order of their keys, and an error for
// those that cannot be used. It omits the errors of package json, because they quote
// the data.
func read(s *v1.Secret) ([]entry, error) {
	key := ""
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		key = v1.DockerConfigJsonKey
	case v1.SecretTypeDockercfg:
		key = v1.DockerConfigKey
	default:
		return nil, fault.Invalid.Errorf("its type is %q, want %s or %s", s.Type, v1.SecretTypeDockerConfigJson, v1.SecretTypeDockercfg)
	}
	data, ok := s.Data[key]
	if !ok {
		return nil, fault.Invalid.Errorf("it has no key %q", key)
	}
	auths, err := registries(s.Type, data)
	if err != nil {
		return nil, fault.Invalid.Errorf("its %s is not docker's configuration", key)
	}
	return entriesOf(auths)
}

// registries returns the configuration of each registry.
func registries(kind v1.SecretType, data []byte) (auths map[string]json.RawMessage, err error) {
	if kind == v1.SecretTypeDockercfg {
		err = json.Unmarshal(data, &auths)
		return auths, err
	}
	var config struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	err = json.Unmarshal(data, &config)
	return config.Auths, err
}

// entriesOf reads the registries one by one. It counts damaged ones, which do not
// prevent the use of the others.
func entriesOf(auths map[string]json.RawMessage) ([]entry, error) {
	var entries []entry
	damaged := 0
	for _, key := range slices.Sorted(maps.Keys(auths)) {
		l, err := parseLogin(auths[key])
		switch {
		case err != nil:
			damaged++
		case l != login{}:
			entries = append(entries, entry{parseLocation(key), l})
		}
	}
	if damaged > 0 {
		return entries, fault.Invalid.Errorf("%d of its %d registries cannot be read: want username and password, or auth, the base64 of USER:PASSWORD", damaged, len(auths))
	}
	if len(entries) == 0 {
		return nil, fault.Invalid.Errorf("it has no credentials (those that a credential helper keeps are not in docker's configuration)")
	}
	return entries, nil
}

// parseLogin reads the value of an entry. auth, if present, takes precedence over
// username and password.
func parseLogin(data []byte) (login, error) {
	var e struct {
		Username      string `json:"username"`
		Password      string `json:"password"` //nolint:gosec // it is read, and written nowhere
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return login{}, err
	}
	l := login{e.Username, e.Password, e.IdentityToken, e.RegistryToken}
	if e.Auth == "" {
		return l, nil
	}
	// Some tools omit the padding; old versions of docker append zeros.
	plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	user, password, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
	if err != nil || !ok {
		return login{}, errAuth
	}
	l.username, l.password = user, password
	return l, nil
}
