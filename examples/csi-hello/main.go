// csi-hello is a CSI driver whose volumes are directories that begin with a file hello.txt.
// Copy this folder, rename hello.csi.example.com, and replace Make, Remove, PublishVolume and UnpublishVolume.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/mount"
	"github.com/nodekit-project/nodekit/csi/store"
)

func main() {
	const name = "hello.csi.example.com"
	dir := csi.StateDir(name)
	path := func(id string) string { return filepath.Join(dir, "data", id) }

	// The store remembers volumes across restarts; it calls Make and Remove for their content.
	volumes := store.New(filepath.Join(dir, "volumes"), store.Backend{
		Make: func(_ context.Context, v *store.Volume) error {
			if err := os.MkdirAll(path(v.ID), 0o777); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(path(v.ID), "hello.txt"), []byte("hello from "+v.Name+"\n"), 0o666)
		},
		Remove: func(_ context.Context, v *store.Volume) error { return os.RemoveAll(path(v.ID)) },
	}, nil)
	csi.Main(&csi.Driver{
		Name: name, Version: "0.1.0",
		Recover: volumes.Recover, CreateVolume: volumes.Create, DeleteVolume: volumes.Delete, GetVolume: volumes.Get,
		PublishVolume: func(_ context.Context, r *csi.PublishRequest) error {
			return mount.Publish(path(r.VolumeID), r.TargetPath, r.ReadOnly)
		},
		UnpublishVolume: func(_ context.Context, r *csi.UnpublishRequest) error {
			return mount.Unpublish(r.TargetPath)
		},
	})
}
