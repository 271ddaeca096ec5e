package archive

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Pack makes an image of one file, a statically linked program, and returns it as an
// archive that image.Store.Load, "docker load" and "ctr images import" accept. The
// program is in the root directory under its own name and is the entrypoint; "/" comes
// first in PATH. The image also has the empty directories and files that every runtime
// mounts over. Equal programs give equal archives: all times are 1970.
//
// name is any reference with a tag. If the program is not a Linux executable, or needs a
// dynamic loader, which the image would lack, the error is fault.Invalid.
func Pack(binary, name string) ([]byte, error) {
	archive, err := pack(binary, name)
	if err != nil {
		return nil, fmt.Errorf("packing %q: %w", binary, err)
	}
	return archive, nil
}

func pack(binary, name string) ([]byte, error) {
	full, err := content.Normalize(name)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	arch, err := staticArch(program)
	if err != nil {
		return nil, err
	}
	file := filepath.Base(binary)
	if slices.Contains(mounted, file+"/") {
		return nil, fault.Invalid.Errorf("the program's name %q is that of a directory that runtimes mount over: call it otherwise", file)
	}
	layer, err := tarball(append(mountPoints(), tarFile{file, program, 0o755})...)
	if err != nil {
		return nil, err
	}
	config, err := packConfig(file, arch, content.Bytes(layer).Digest)
	if err != nil {
		return nil, err
	}
	return packArchive(full, arch, config, layer)
}

// mounted lists the directories, with a trailing slash, and files that every runtime
// mounts over: if they are missing, it has to create them for each container.
var mounted = []string{"dev/", "proc/", "sys/", "etc/", "etc/hostname", "etc/hosts", "etc/resolv.conf"}

func mountPoints() (files []tarFile) {
	for _, name := range mounted {
		mode := int64(0o644)
		if isDir(name) {
			mode = 0o755
		}
		files = append(files, tarFile{name: name, mode: mode})
	}
	return files
}

func isDir(name string) bool { return strings.HasSuffix(name, "/") }

// staticArch returns the GOARCH of a program that can run in an empty image.
func staticArch(program []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fault.Invalid.Errorf("not a Linux program: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fault.Invalid.Errorf("it is dynamically linked, and the image would hold no libraries: build it with CGO_ENABLED=0 or -static")
		}
	}
	arch, ok := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
	if !ok {
		return "", fault.Invalid.Errorf("it is for %v: amd64 and arm64 can be packed", f.Machine)
	}
	return arch, nil
}

func packConfig(file, arch string, diffID v1.Hash) ([]byte, error) {
	return json.Marshal(v1.ConfigFile{
		Architecture: arch,
		OS:           "linux",
		Created:      v1.Time{Time: time.Unix(0, 0).UTC()},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		Config: v1.Config{
			Entrypoint: []string{"/" + file},
			Env:        []string{"PATH=/:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			WorkingDir: "/",
		},
	})
}

// packArchive puts config and layer into an OCI layout, with the manifest.json that older
// versions of docker read.
func packArchive(name, arch string, config, layer []byte) ([]byte, error) {
	c, l := descriptor(types.OCIConfigJSON, config), descriptor(types.OCIUncompressedLayer, layer)
	m, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: c, Layers: []v1.Descriptor{l}})
	if err != nil {
		return nil, err
	}
	d := descriptor(types.OCIManifestSchema1, m)
	d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	d.Annotations = map[string]string{annotationName: name, annotationRefName: name}
	idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return nil, err
	}
	docker, err := json.Marshal([]dockerImage{{blobName(c.Digest), []string{name}, []string{blobName(l.Digest)}}})
	if err != nil {
		return nil, err
	}
	return tarball(
		tarFile{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		tarFile{"index.json", idx, 0o644},
		tarFile{"manifest.json", docker, 0o644},
		tarFile{blobName(d.Digest), m, 0o644},
		tarFile{blobName(c.Digest), config, 0o644},
		tarFile{blobName(l.Digest), layer, 0o644},
	)
}

func descriptor(t types.MediaType, raw []byte) v1.Descriptor {
	b := content.Bytes(raw)
	return v1.Descriptor{MediaType: t, Digest: b.Digest, Size: b.Size}
}

type tarFile struct {
	name string
	body []byte
	mode int64
}

func tarball(files ...tarFile) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.body)), Mode: f.mode, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if isDir(f.name) {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
