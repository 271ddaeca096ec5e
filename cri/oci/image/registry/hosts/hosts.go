// Package hosts determines from where the images of a registry are fetched: from the
// registry itself, or from mirrors that an administrator configured in the layout of
// containerd's certs.d.
//
//	DIR/HOST/hosts.toml          HOST as in image names: docker.io, quay.io
//	DIR/HOST_PORT_/hosts.toml    for HOST:PORT
//	DIR/_default/hosts.toml      for registries without a directory of their own
//
// It reads files and makes no connections. It caches nothing, so an administrator's
// changes apply from the next pull on. Everything is safe for concurrent use.
package hosts

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Host is one place from which images can be fetched.
type Host struct {
	// URL has the scheme and host, and as its path the root of the registry's API, which
	// is "/v2" unless the administrator configured another. It is nil for the registry
	// itself, reached under its own name.
	URL *url.URL
	// OverridePath is true if the administrator configured the path: then nothing is
	// known about what is above a repository.
	OverridePath bool

	Resolve bool // it may be asked to resolve tags
	Pull    bool // it may be asked for content by digest

	CA          []string      // files of certificates to trust besides the system's
	Client      []KeyPair     // client certificates for the server
	SkipVerify  bool          // do not verify the server's certificate
	Header      http.Header   // to send with each request to this host only
	DialTimeout time.Duration // zero is the caller's default
}

// KeyPair names the files of a certificate and its key, which may be the same file.
type KeyPair struct{ Cert, Key string }

// Origin is the registry itself without any configuration.
func Origin() Host { return Host{Resolve: true, Pull: true} }

// Load returns the places for images of registry, a host with or without a port as in
// image names, in the order in which to try them; the registry itself is last. notices
// describe the unknown keys in the file.
//
// If dir is empty, or has no file for the registry, the result is Origin alone. If a file
// cannot be read or understood, the error is fault.FailedPrecondition with the file and
// the line: falling back to the registry could be what the administrator wanted to
// prevent.
func Load(dir, registry string) (all []Host, notices []string, err error) {
	if dir == "" {
		return []Host{Origin()}, nil, nil
	}
	for _, name := range []string{directory(registry), registry, "_default"} {
		sub := filepath.Join(dir, name)
		if _, err := os.Stat(sub); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return loadDir(sub)
	}
	return []Host{Origin()}, nil, nil
}

// directory returns the name of a registry's directory, without the colon, which has a
// special meaning in some file systems.
func directory(registry string) string {
	if at := strings.LastIndexByte(registry, ':'); at > 0 {
		return registry[:at] + "_" + registry[at+1:] + "_"
	}
	return registry
}

func loadDir(dir string) ([]Host, []string, error) {
	path := filepath.Join(dir, "hosts.toml")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		h, err := dockerCerts(dir)
		return []Host{h}, nil, err
	}
	if err != nil {
		return nil, nil, fault.FailedPrecondition.Errorf("reading the configuration of a registry: %w", err)
	}
	return parse(path, raw)
}

// dockerCerts reads a directory in the form of docker's certs.d, which has certificates
// for the registry and no mirrors: NAME.crt to trust, NAME.cert with NAME.key as client
// certificate.
func dockerCerts(dir string) (Host, error) {
	h := Origin()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return h, fault.FailedPrecondition.Errorf("reading the configuration of a registry: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			h.CA = append(h.CA, path)
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			if _, err := os.Stat(key); err != nil {
				key = path
			}
			h.Client = append(h.Client, KeyPair{path, key})
		}
	}
	return h, nil
}
