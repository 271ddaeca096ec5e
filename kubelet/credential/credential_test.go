package credential_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/credential"
)

func secret(kind v1.SecretType, key, data string) *v1.Secret {
	return &v1.Secret{Type: kind, Data: map[string][]byte{key: []byte(data)}}
}

func configJSON(auths string) *v1.Secret {
	return secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":`+auths+`}`)
}

// registries is a Secret in which each key's user has the key's name.
func registries(t testing.TB, keys ...string) *v1.Secret {
	t.Helper()
	auths := map[string]map[string]string{}
	for _, key := range keys {
		auths[key] = map[string]string{"username": key, "password": "secret"}
	}
	text, err := json.Marshal(auths)
	if err != nil {
		t.Fatal(err)
	}
	return configJSON(string(text))
}

func users(list []*runtimeapi.AuthConfig) []string {
	var names []string
	for _, a := range list {
		names = append(names, a.Username)
	}
	return names
}

func TestMatch(t *testing.T) {
	const image = "registry.example.com/team/app:v1"
	for what, c := range map[string]struct {
		key, image string
		want       bool
	}{
		"the host":                        {"registry.example.com", image, true},
		"another host":                    {"example.com", image, false},
		"a URL":                           {"https://registry.example.com", image, true},
		"a plain URL":                     {"http://registry.example.com/", image, true},
		"version 1":                       {"https://registry.example.com/v1/", image, true},
		"version 2 without an end":        {"registry.example.com/v2", image, false},
		"a path behind a version":         {"registry.example.com/v2/team", image, true},
		"a path like a version":           {"registry.example.com/v2x", "registry.example.com/v2x/app", true},
		"the beginning of the host":       {"registry.example", image, false},
		"a user in the URL":               {"https://me@registry.example.com", image, true},
		"upper case":                      {"Registry.Example.COM", image, true},
		"its path":                        {"registry.example.com/team", image, true},
		"its whole path":                  {"registry.example.com/team/app", image, true},
		"the beginning of its path":       {"registry.example.com/te", image, true},
		"another path":                    {"registry.example.com/other", image, false},
		"a longer path":                   {"registry.example.com/team/app/more", image, false},
		"a path with a tag":               {"registry.example.com/team/app:v1", image, false},
		"by digest":                       {"registry.example.com/team", "registry.example.com/team/app:v1@sha256:" + strings.Repeat("0", 64), true},
		"a port too many":                 {"registry.example.com:5000", image, false},
		"a port":                          {"registry.example.com:5000", "registry.example.com:5000/app", true},
		"a port and a URL":                {"https://registry.example.com:5000/v1/", "registry.example.com:5000/app", true},
		"another port":                    {"registry.example.com:5001", "registry.example.com:5000/app", false},
		"a port too few":                  {"registry.example.com", "registry.example.com:5000/app", false},
		"an address":                      {"127.0.0.1:5000", "127.0.0.1:5000/app", true},
		"an IPv6 address":                 {"[::1]:5000", "[::1]:5000/app", true},
		"a pattern and an IPv6 address":   {"*:5000", "[::1]:5000/app", false},
		"any label":                       {"*.example.com", image, true},
		"a part of a label":               {"reg*.example.com", image, true},
		"one character":                   {"registr?.example.com", image, true},
		"a class":                         {"[a-r]egistry.example.com", image, true},
		"a class and a port":              {"[a-r]egistry.example.com:5000", "registry.example.com:5000/app", true},
		"another class":                   {"[a-q]egistry.example.com", image, false},
		"a pattern is one label":          {"*.com", image, false},
		"a pattern is not no label":       {"*.registry.example.com", image, false},
		"patterns":                        {"*.*.com", image, true},
		"a pattern and a path":            {"*.example.com/team", image, true},
		"a pattern and another path":      {"*.example.com/other", image, false},
		"a pattern in the path is none":   {"registry.example.com/*", image, false},
		"a pattern and a port":            {"*.example.com:5000", "registry.example.com:5000/app", true},
		"a broken pattern":                {"[registry.example.com", image, false},
		"nothing":                         {"", image, false},
		"a path alone":                    {"/team", image, false},
		"a short name is Docker Hub's":    {"https://index.docker.io/v1/", "busybox", true},
		"Docker Hub by its name":          {"docker.io", "busybox:1", true},
		"Docker Hub by its host":          {"index.docker.io", "docker.io/me/app", true},
		"Docker Hub, an image by host":    {"docker.io", "index.docker.io/me/app", true},
		"Docker Hub's own":                {"docker.io/library", "busybox", true},
		"Docker Hub, somebody's":          {"docker.io/me", "me/app", true},
		"Docker Hub, somebody else's":     {"docker.io/me", "you/app", false},
		"Docker Hub is no other registry": {"docker.io", image, false},
		"another registry is not it":      {"registry.example.com", "busybox", false},
		"a name that is none":             {"registry.example.com", "registry.example.com/No Name", false},
	} {
		t.Run(what, func(t *testing.T) {
			var ring credential.Keyring
			if err := ring.Add(registries(t, c.key)); err != nil {
				t.Fatal(err)
			}
			if got := len(ring.For(c.image)) == 1; got != c.want {
				t.Errorf("credentials for %q are used for %q: %v, want %v", c.key, c.image, got, c.want)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	var ring credential.Keyring
	for _, s := range []*v1.Secret{
		registries(t, "*.example.com", "*.example.com/team/app", "reg*.example.com", "[r]egistry.example.com", "other.example.com"),
		registries(t, "registry.example.com/v1/", "https://registry.example.com/v1/", "http://registry.example.com/v2/"),
		registries(t, "https://registry.example.com/", "registry.example.com/team", "*.*.com/team/app"),
		registries(t, "registry.example.com/team"), // the same once more
	} {
		if err := ring.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"registry.example.com/team", "http://registry.example.com/v2/", "https://registry.example.com/v1/", "registry.example.com/v1/", "https://registry.example.com/",
		"[r]egistry.example.com", "reg*.example.com", "*.example.com/team/app", "*.example.com", "*.*.com/team/app",
	}
	if diff := cmp.Diff(want, users(ring.For("registry.example.com/team/app"))); diff != "" {
		t.Errorf("tried in the order (-want +got):\n%s", diff)
	}
}

// TestOrderIsTheSameEachTime has keys that differ in nothing that counts: a map's
// order must not show.
func TestOrderIsTheSameEachTime(t *testing.T) {
	for range 100 { // a map yields three keys in their own order three times in four
		var ring credential.Keyring
		if err := ring.Add(registries(t, "r.example.com", "https://r.example.com", "http://r.example.com")); err != nil {
			t.Fatal(err)
		}
		want := []string{"http://r.example.com", "https://r.example.com", "r.example.com"}
		if diff := cmp.Diff(want, users(ring.For("r.example.com/app"))); diff != "" {
			t.Fatalf("tried in the order (-want +got):\n%s", diff)
		}
	}
}

func TestRead(t *testing.T) {
	const at = "r.example.com"
	auth := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	entry := func(fields string) *v1.Secret { return configJSON(`{"` + at + `":{` + fields + `}}`) }
	for what, c := range map[string]struct {
		secret *v1.Secret
		want   *runtimeapi.AuthConfig
		err    string // "" for none
	}{
		"username and password":      {entry(`"username":"me","password":"hunter2"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"auth":                       {entry(`"auth":"` + auth("me:hunter2") + `"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"auth with a colon":          {entry(`"auth":"` + auth("me:hunter2:3") + `"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2:3"}, ""},
		"auth without padding":       {entry(`"auth":"` + strings.TrimRight(auth("me:hunter23"), "=") + `"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter23"}, ""},
		"auth with an end of line":   {entry(`"auth":"` + auth("me:hunter2") + `\n"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"auth with zeros":            {entry(`"auth":"` + auth("me:hunter2\x00\x00") + `"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"auth counts":                {entry(`"username":"a","password":"b","auth":"` + auth("me:hunter2") + `"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"an identity token":          {entry(`"auth":"` + auth("0:") + `","identitytoken":"hunter2"`), &runtimeapi.AuthConfig{Username: "0", IdentityToken: "hunter2"}, ""},
		"a registry token":           {entry(`"registrytoken":"hunter2"`), &runtimeapi.AuthConfig{RegistryToken: "hunter2"}, ""},
		"more than is needed":        {entry(`"username":"me","password":"hunter2","email":"me@example.com"`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"dockercfg":                  {secret(v1.SecretTypeDockercfg, ".dockercfg", `{"`+at+`":{"auth":"`+auth("me:hunter2")+`"}}`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"an empty entry beside":      {configJSON(`{"x":{},"` + at + `":{"username":"me","password":"hunter2"}}`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, ""},
		"a damaged entry beside":     {configJSON(`{"x":{"auth":"hunter2"},"` + at + `":{"username":"me","password":"hunter2"}}`), &runtimeapi.AuthConfig{Username: "me", Password: "hunter2"}, "1 of its 2 registries"},
		"another type":               {secret(v1.SecretTypeOpaque, ".dockerconfigjson", `{"auths":{"hunter2":{"auth":"hunter2"}}}`), nil, `its type is "Opaque"`},
		"no key":                     {secret(v1.SecretTypeDockerConfigJson, ".dockercfg", `{"hunter2":{}}`), nil, `no key ".dockerconfigjson"`},
		"no key of dockercfg":        {secret(v1.SecretTypeDockercfg, ".dockerconfigjson", `{"hunter2":{}}`), nil, `no key ".dockercfg"`},
		"no JSON":                    {secret(v1.SecretTypeDockerConfigJson, ".dockerconfigjson", "hunter2"), nil, "is not docker's configuration"},
		"nothing":                    {secret(v1.SecretTypeDockerConfigJson, ".dockerconfigjson", ""), nil, "is not docker's configuration"},
		"text for registries":        {configJSON(`"hunter2"`), nil, "is not docker's configuration"},
		"text for dockercfg":         {secret(v1.SecretTypeDockercfg, ".dockercfg", `"hunter2"`), nil, "is not docker's configuration"},
		"text for an entry":          {configJSON(`{"` + at + `":"hunter2"}`), nil, "1 of its 1 registries"},
		"auth that is no base64":     {entry(`"auth":"hunter2:"`), nil, "1 of its 1 registries"},
		"auth without a password":    {entry(`"auth":"` + auth("hunter2") + `"`), nil, "1 of its 1 registries"},
		"a number for a password":    {entry(`"username":"hunter2","password":2`), nil, "1 of its 1 registries"},
		"those of a helper":          {secret(v1.SecretTypeDockerConfigJson, ".dockerconfigjson", `{"auths":{"`+at+`":{}},"credsStore":"hunter2"}`), nil, "it has no credentials"},
		"none":                       {configJSON(`{}`), nil, "it has no credentials"},
		"nothing where entries were": {configJSON(`{"` + at + `":null}`), nil, "it has no credentials"},
	} {
		t.Run(what, func(t *testing.T) {
			var ring credential.Keyring
			err := ring.Add(c.secret)
			if c.err == "" && err != nil || c.err != "" && (!errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error quotes from the Secret: %v", err)
			}
			got := ring.For(at + "/app")
			if c.want == nil && got != nil || c.want != nil && (len(got) != 1 || got[0].String() != c.want.String()) {
				t.Errorf("credentials %v, want %v", got, c.want)
			}
		})
	}
}

// plain is what an error may say of any Secret.
var plain = regexp.MustCompile(`^(its \.dockerc(onfigjson|fg) is not docker's configuration|\d+ of its \d+ registries cannot be read: want username and password, or auth, the base64 of USER:PASSWORD|it has no credentials [^0-9"]*)$`)

// FuzzKeyring has all kinds of data and images: none may panic, no error quotes the
// data, and an image's own registry always matches it.
func FuzzKeyring(f *testing.F) {
	for _, seed := range []struct{ data, image string }{
		{`{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"}}}`, "busybox"},
		{`{"auths":{"*.example.com:5000/a":{"username":"me","password":"x"},"b":{"auth":"?"}}}`, "r.example.com:5000/a/b:v1"},
		{`{"[::1]:5000":{"identitytoken":"t"},"[":{"registrytoken":"t"}}`, "[::1]:5000/a@sha256:" + strings.Repeat("0", 64)},
		{`{"auths":[]}`, "localhost/x"},
		{`{"a":"b"}`, "No Name"},
		{"", ""},
	} {
		f.Add([]byte(seed.data), seed.image)
	}
	f.Fuzz(func(t *testing.T, data []byte, image string) {
		for kind, key := range map[v1.SecretType]string{v1.SecretTypeDockerConfigJson: v1.DockerConfigJsonKey, v1.SecretTypeDockercfg: v1.DockerConfigKey} {
			var ring credential.Keyring
			if err := ring.Add(secret(kind, key, string(data))); err != nil && !plain.MatchString(err.Error()) {
				t.Errorf("%s: error %q", kind, err)
			}
			ring.For(image)
		}
		ref, err := name.ParseReference(image)
		if err != nil {
			return
		}
		var ring credential.Keyring
		if err := ring.Add(registries(t, ref.Context().RegistryStr())); err != nil {
			t.Fatal(err)
		}
		if len(ring.For(image)) != 1 {
			t.Errorf("credentials for %q are not used for %q", ref.Context().RegistryStr(), image)
		}
	})
}
