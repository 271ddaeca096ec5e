// Package hosts says where the images of a registry are fetched from: at the
// registry itself, or at mirrors that an administrator configured in the layout
// that containerd made known (certs.d).
//
//	DIR/HOST/hosts.toml          HOST as in image names: docker.io, quay.io
//	DIR/HOST_PORT_/hosts.toml    for HOST:PORT
//	DIR/_default/hosts.toml      for registries without a directory of their own
//
// It reads files and makes no connection. It keeps nothing, so that what an
// administrator changes counts from the next pull on. All of it is safe for
// concurrent use.
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

// Host is one place to fetch images from.
type Host struct {
	// URL has the scheme and the host, and as its path the root of the
	// registry's API, "/v2" unless the administrator said otherwise. It is nil for
	// the registry itself, reached as its name says.
	URL *url.URL
	// OverridePath is true when the path is the administrator's own: then
	// nothing is known about what lies above a repository.
	OverridePath bool

	Resolve bool // it may be asked which image a tag means
	Pull    bool // it may be asked for content, by its digest

	CA          []string      // files of certificates to trust beside the system's
	Client      []KeyPair     // to show to the server
	SkipVerify  bool          // do not verify the server's certificate
	Header      http.Header   // to send with each request to this host, and to no other
	DialTimeout time.Duration // zero is the caller's default
}

// KeyPair are the files of a certificate and its key, which may be one file.
type KeyPair struct{ Cert, Key string }

// Origin is the registry itself without any configuration.
func Origin() Host { return Host{Resolve: true, Pull: true} }

// Load returns where to look for images of registry, a host with or without a
// port as it stands in image names, in the order in which to try; the registry
// itself comes last. notices say what in the file means nothing to this program.
//
// With an empty dir, or no file in dir for the registry, it is Origin alone. A
// file that cannot be read or understood is fault.FailedPrecondition with the
// file and the line: going to the registry instead could be what the
// administrator wanted to prevent.
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

// directory is the name of a registry's directory: a colon would have a meaning
// in some file systems.
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

// dockerCerts reads a directory in the form of docker's certs.d, which has
// certificates for the registry and no mirrors: NAME.crt to trust, NAME.cert with
// NAME.key to show.
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
