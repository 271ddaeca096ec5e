package hosts_test

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cri/oci/image/registry/hosts"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "docker.io", "hosts.toml"), `
server = "https://registry-1.docker.io"
override_path = false

# tried in this order, whatever their names are
[host."https://z.example.com/harbor/v2/hub"]
  capabilities = ["pull", "resolve", "push"]
  override_path = true
  skip_verify = true
  ca = ["a.pem", "/etc/b.pem"]
  client = [["c.cert", "c.key"], ["d.pem"], ["e.pem", ""]]
  dial_timeout = "3s"
[host."https://z.example.com/harbor/v2/hub".header]
  x-one = "1"
  x-two = ["2", "3"]

[host."http://a.example.com:5000"]
  capabilities = ["pull"]
  client = "one.pem"

[host."b.example.com/sub/"]
`)
	at := func(raw string) *url.URL {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	file := func(name string) string { return filepath.Join(dir, "docker.io", name) }
	got, notices, err := hosts.Load(dir, "docker.io")
	want := []hosts.Host{
		{
			URL: at("https://z.example.com/harbor/v2/hub"), OverridePath: true, Resolve: true, Pull: true, SkipVerify: true,
			CA:          []string{file("a.pem"), "/etc/b.pem"},
			Client:      []hosts.KeyPair{{Cert: file("c.cert"), Key: file("c.key")}, {Cert: file("d.pem"), Key: file("d.pem")}, {Cert: file("e.pem"), Key: file("e.pem")}},
			Header:      http.Header{"X-One": {"1"}, "X-Two": {"2", "3"}},
			DialTimeout: 3 * time.Second,
		},
		{URL: at("http://a.example.com:5000/v2"), Pull: true, Client: []hosts.KeyPair{{Cert: file("one.pem"), Key: file("one.pem")}}, Header: http.Header{}},
		{URL: at("https://b.example.com/sub/v2"), Resolve: true, Pull: true, Header: http.Header{}},
		{URL: at("https://registry-1.docker.io/v2"), Resolve: true, Pull: true, Header: http.Header{}},
	}
	if err != nil || len(notices) > 0 {
		t.Fatalf("Load: notices %q, %v", notices, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLoadChooses: a registry's own directory comes before the default, and
// what is configured for another does not count.
func TestLoadChooses(t *testing.T) {
	dir := t.TempDir()
	for name, server := range map[string]string{"example.com_5000_": "port", "example.com": "host", "old.example.com:5000": "colon", "_default": "default"} {
		write(t, filepath.Join(dir, name, "hosts.toml"), `host = { "https://`+server+`" = {} }`)
	}
	write(t, filepath.Join(dir, "certs.example.com", "ca.crt"), "")
	write(t, filepath.Join(dir, "certs.example.com", "me.cert"), "")
	write(t, filepath.Join(dir, "certs.example.com", "me.key"), "")
	for registry, want := range map[string]string{
		"example.com:5000": "port", "example.com": "host", "old.example.com:5000": "colon", "example.com:5001": "default", "docker.io": "default",
	} {
		got, _, err := hosts.Load(dir, registry)
		if err != nil || len(got) != 2 || got[0].URL.Host != want || got[1].URL != nil {
			t.Errorf("Load(%q) = %v, %v; want host %q, then the registry", registry, got, err, want)
		}
	}
	certs := filepath.Join(dir, "certs.example.com")
	got, _, err := hosts.Load(dir, "certs.example.com")
	want := []hosts.Host{{
		Resolve: true, Pull: true, CA: []string{filepath.Join(certs, "ca.crt")},
		Client: []hosts.KeyPair{{Cert: filepath.Join(certs, "me.cert"), Key: filepath.Join(certs, "me.key")}},
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("docker's form: %v\n%s", err, diff)
	}
	for _, none := range []string{"", filepath.Join(dir, "nowhere")} {
		if got, _, err := hosts.Load(none, "docker.io"); err != nil || !cmp.Equal(got, []hosts.Host{hosts.Origin()}) {
			t.Errorf("Load(%q): %v, %v; want the registry alone", none, got, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no TOML":        {"server = \"https://a\"\n[host.\n", "hosts.toml:2: "},
		"type":           {"\n\nskip_verify = \"yes\"\n", "hosts.toml:3: "},
		"capability":     {"[host.\"https://a\"]\n\ncapabilities = [\"fetch\"]\n", `hosts.toml:3: host.https://a.capabilities: "fetch": want pull, resolve`},
		"ca":             {"ca = 5\n", "hosts.toml:1: ca: 5 is neither"},
		"ca in a list":   {"ca = [5]\n", "hosts.toml:1: ca: 5 is not a text"},
		"client":         {"[host.\"https://a\"]\nclient = [[\"a\", \"b\", \"c\"]]\n", "hosts.toml:2: host.https://a.client"},
		"header":         {"[host.\"https://a\"]\n[host.\"https://a\".header]\nx = 1\n", "hosts.toml:2: host.https://a.header"},
		"timeout":        {"dial_timeout = \"soon\"\n", `hosts.toml:1: dial_timeout: "soon" is no time`},
		"scheme":         {"\nserver = \"ftp://a\"\n", "hosts.toml:2: server: want http://HOST"},
		"file":           {"\nserver = \"file:///etc\"\n", "hosts.toml:2: server: want http://HOST"},
		"password":       {"\n[host.\"https://me:secret@a\"]\n", "hosts.toml:2: "},
		"host twice":     {"[host.\"https://a\"]\n[host.\"https://a\"]\n", "hosts.toml:2: "},
		"value for host": {"host = 1\n", "hosts.toml:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "_default", "hosts.toml"), c.text)
			got, _, err := hosts.Load(dir, "example.com")
			if !errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Load: %v, %v; want fault.FailedPrecondition with %q", got, err, c.want)
			}
		})
	}
}

func TestLoadTellsOfUnknownKeys(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "_default", "hosts.toml"), "servers = \"https://a\"\n[host.\"https://b\"]\nskip-verify = true\ncapabilities = [\"pull\"]\n")
	got, notices, err := hosts.Load(dir, "example.com")
	if err != nil || len(got) != 2 || !got[0].Pull || got[0].Resolve || got[0].SkipVerify {
		t.Errorf("Load: %v, %v", got, err)
	}
	path := filepath.Join(dir, "_default", "hosts.toml")
	want := []string{path + `:1: unknown key "servers" is ignored`, path + `:3: unknown key "host.https://b.skip-verify" is ignored`}
	if diff := cmp.Diff(want, notices); diff != "" {
		t.Error(diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("server = 'https://a'\n[host.'b']\nca = ['x']\n")
	f.Add("host = { a = { client = [['x']] } }")
	f.Add("host.a.b.c = 1")
	f.Add("[[host]]")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "_default", "hosts.toml"), text)
		got, _, err := hosts.Load(dir, "example.com")
		if (err == nil) != (len(got) > 0) {
			t.Errorf("%d hosts and %v", len(got), err)
		}
	})
}
