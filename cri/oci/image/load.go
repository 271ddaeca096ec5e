package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodekit-project/nodekit/cri/oci/image/archive"
)

// Load stores the images of the file or directory at path: a docker archive (docker save)
// or an OCI archive, either of them compressed or not, or an OCI image layout. It returns
// their present names, or the ID of an image without a name. Of a multi-platform image,
// the one for this machine is loaded.
//
// A name that belonged to another image moves to the loaded one. Loading the same file
// again changes nothing. If it is not an image archive, or is corrupt, the error is
// fault.Invalid. Unpacking requires root.
func (s *Store) Load(ctx context.Context, path string) (names []string, err error) {
	err = s.ingesting(ctx, func() error {
		a, err := archive.Open(path, &archive.Options{Scratch: s.ingestPath(""), MaxBytes: s.limits.Bytes})
		if err != nil {
			return err
		}
		names, err = s.loadAll(ctx, a)
		return errors.Join(err, a.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("loading image archive %q: %w", path, s.explainDisk(err))
	}
	return names, nil
}

func (s *Store) loadAll(ctx context.Context, a *archive.Archive) (names []string, err error) {
	found, err := a.Images()
	if err != nil {
		return nil, err
	}
	for _, im := range found {
		id, err := s.add(ctx, im)
		if err != nil {
			return nil, err
		}
		if len(im.Names) == 0 {
			names = append(names, id)
		}
		names = append(names, im.Names...)
	}
	return names, nil
}

// Pack makes an image of one file, a statically linked program, and returns it as an
// archive for Load. It is archive.Pack.
func Pack(binary, name string) ([]byte, error) { return archive.Pack(binary, name) }
