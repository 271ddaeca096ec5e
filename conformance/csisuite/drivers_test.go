package csisuite_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/csi/mount"
	"github.com/nodekit-project/nodekit/csi/store"
	internalmount "github.com/nodekit-project/nodekit/internal/mount"
)

// serveDriver runs the driver with the given name, or fault, as a program.
func serveDriver(name string) {
	dir := csi.StateDir("unused")
	d := goodDriver(dir)
	if name == "names a volume after it made it" {
		makeNameless(d, dir)
	}
	if change := faults[name]; change != nil {
		change(d, dir)
	}
	if register := behindProxy[name]; register != nil {
		serveBehind(d, dir, register)
		return
	}
	csi.Main(d)
}

// goodDriver keeps directories in dir.
func goodDriver(dir string) *csi.Driver {
	path := func(id string) string { return filepath.Join(dir, "data", id) }
	vols := store.New(filepath.Join(dir, "volumes"), store.Backend{
		Make:   func(_ context.Context, v *store.Volume) error { return os.MkdirAll(path(v.ID), 0o755) },
		Remove: func(_ context.Context, v *store.Volume) error { return os.RemoveAll(path(v.ID)) },
	}, nil)
	d := &csi.Driver{
		Name: "suite.csi.example.com", Version: "1",
		Recover: vols.Recover, CreateVolume: vols.Create, DeleteVolume: vols.Delete, GetVolume: vols.Get, ListVolumes: vols.List,
	}
	d.StageVolume = func(ctx context.Context, r *csi.StageRequest) error {
		if _, err := d.GetVolume(ctx, r.VolumeID); err != nil {
			return err
		}
		return mount.Stage(path(r.VolumeID), r.StagingPath)
	}
	d.UnstageVolume = func(_ context.Context, r *csi.UnstageRequest) error { return mount.Unstage(r.StagingPath) }
	d.PublishVolume = func(_ context.Context, r *csi.PublishRequest) error {
		return mount.Publish(path(r.VolumeID), r.TargetPath, r.ReadOnly)
	}
	d.UnpublishVolume = func(_ context.Context, r *csi.UnpublishRequest) error { return mount.Unpublish(r.TargetPath) }
	return d
}

// faults are what makes a mutant of the good driver, and "odd", which is legal.
var faults = map[string]func(d *csi.Driver, dir string){
	"odd": func(d *csi.Driver, _ string) {
		// No staging, no sizes, a volume context that publishing depends on, a late
		// readiness, and no memory of its own.
		d.StageVolume, d.UnstageVolume, d.ListVolumes = nil, nil, nil
		start, create, get := time.Now(), d.CreateVolume, d.GetVolume
		d.Probe = func(context.Context) error {
			if time.Since(start) < 50*time.Millisecond {
				return csi.ErrNotReady
			}
			return nil
		}
		d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			v, err := create(ctx, r)
			if err != nil {
				return nil, err
			}
			return &csi.Volume{ID: v.ID, Context: map[string]string{"where is it?": v.ID}}, nil
		}
		publish := d.PublishVolume
		d.PublishVolume = func(ctx context.Context, r *csi.PublishRequest) error {
			if r.Context["where is it?"] != r.VolumeID {
				return csi.ErrInvalid.Errorf("the volume context is not the one that CreateVolume gave")
			}
			if _, err := get(ctx, r.VolumeID); err != nil {
				return err
			}
			return publish(ctx, r)
		}
	},
	"makes a new volume for every call": func(d *csi.Driver, _ string) {
		create := d.CreateVolume
		d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			r.Name = rand.Text()
			return create(ctx, r)
		}
	},
	"takes any size for an existing volume": func(d *csi.Driver, _ string) {
		create := d.CreateVolume
		d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			v, err := create(ctx, r)
			if errors.Is(err, csi.ErrAlreadyExists) {
				return &csi.Volume{ID: "vol-any", Capacity: r.Required}, nil
			}
			return v, err
		}
	},
	"publishes a directory without mounting": func(d *csi.Driver, _ string) {
		d.PublishVolume = func(_ context.Context, r *csi.PublishRequest) error { return os.MkdirAll(r.TargetPath, 0o755) }
		d.UnpublishVolume = func(_ context.Context, r *csi.UnpublishRequest) error { return os.RemoveAll(r.TargetPath) }
	},
	"publishes read-only volumes writable": func(d *csi.Driver, _ string) {
		publish := d.PublishVolume
		d.PublishVolume = func(ctx context.Context, r *csi.PublishRequest) error {
			r.ReadOnly = false
			return publish(ctx, r)
		}
	},
	"answers NOT_FOUND to a repeated unpublication": func(d *csi.Driver, _ string) {
		unpublish := d.UnpublishVolume
		d.UnpublishVolume = func(ctx context.Context, r *csi.UnpublishRequest) error {
			if on, err := mount.Mounted(r.TargetPath); err != nil || !on {
				return csi.ErrNotFound.Errorf("volume %q is not published at %q", r.VolumeID, r.TargetPath)
			}
			return unpublish(ctx, r)
		}
	},
	"keeps its volumes in memory": func(d *csi.Driver, _ string) {
		known, create := map[string]bool{}, d.CreateVolume
		d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			v, err := create(ctx, r)
			if err == nil {
				known[v.ID] = true
			}
			return v, err
		}
		d.GetVolume = func(_ context.Context, id string) (*csi.Volume, error) {
			if !known[id] {
				return nil, csi.ErrNotFound.Errorf("volume %q does not exist", id)
			}
			return &csi.Volume{ID: id}, nil
		}
	},
	"leaves a mount in its state directory": func(d *csi.Driver, dir string) {
		stage := d.StageVolume
		d.StageVolume = func(ctx context.Context, r *csi.StageRequest) error {
			if err := stage(ctx, r); err != nil {
				return err
			}
			extra := filepath.Join(dir, "extra")
			return errors.Join(os.MkdirAll(extra, 0o700), internalmount.Bind(r.StagingPath, extra, nil))
		}
	},
	"leaves a file in the staging directory": func(d *csi.Driver, _ string) {
		unstage := d.UnstageVolume
		d.UnstageVolume = func(ctx context.Context, r *csi.UnstageRequest) error {
			if err := unstage(ctx, r); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(r.StagingPath, "unstaged"), nil, 0o600)
		}
	},
}

// makeNameless replaces the store by directories that get their name a while
// after they were made, which a kill can fall into.
func makeNameless(d *csi.Driver, dir string) {
	data := filepath.Join(dir, "data")
	d.ListVolumes = func(context.Context) (list []*csi.Volume, err error) {
		entries, err := os.ReadDir(data)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		for _, e := range entries {
			list = append(list, &csi.Volume{ID: e.Name()})
		}
		return list, err
	}
	d.DeleteVolume = func(_ context.Context, r *csi.DeleteRequest) error {
		return os.RemoveAll(filepath.Join(data, r.VolumeID))
	}
	d.CreateVolume = func(_ context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
		named, err := filepath.Glob(filepath.Join(data, "*", "name-"+r.Name))
		if err != nil || len(named) > 0 {
			return &csi.Volume{ID: filepath.Base(filepath.Dir(strings.Join(named, "")))}, err
		}
		id := rand.Text()
		if err := os.MkdirAll(filepath.Join(data, id), 0o755); err != nil {
			return nil, err
		}
		time.Sleep(50 * time.Millisecond)
		return &csi.Volume{ID: id}, os.WriteFile(filepath.Join(data, id, "name-"+r.Name), nil, 0o600)
	}
}

// serveBehind serves the driver behind a proxy, for what the SDK itself cannot
// do.
func serveBehind(d *csi.Driver, dir string, register func(*grpc.Server, *proxy)) {
	inner := "unix://" + filepath.Join(dir, "inner.sock")
	outer := strings.TrimPrefix(os.Getenv("CSI_ENDPOINT"), "unix://")
	d.NodeID = "n"
	go func() { log.Fatal(csi.Serve(context.Background(), inner, d, nil)) }()
	c, err := client.Dial(inner, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Remove(outer); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Fatal(err)
	}
	l, err := net.Listen("unix", outer)
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	p := &proxy{c: c, seen: map[string]bool{}}
	spec.RegisterIdentityServer(s, &identityProxy{proxy: p})
	register(s, p)
	log.Fatal(s.Serve(l))
}

type proxy struct {
	c    *client.Client
	seen map[string]bool // targets, or attached volumes; the suite makes one call at a time
}

type identityProxy struct {
	spec.UnimplementedIdentityServer
	*proxy
}

func (p *identityProxy) GetPluginInfo(ctx context.Context, r *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return p.c.Identity.GetPluginInfo(ctx, r)
}

func (p *identityProxy) GetPluginCapabilities(ctx context.Context, r *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	return p.c.Identity.GetPluginCapabilities(ctx, r)
}

func (p *identityProxy) Probe(ctx context.Context, r *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return p.c.Identity.Probe(ctx, r, grpc.WaitForReady(true))
}

type controllerProxy struct {
	spec.UnimplementedControllerServer
	*proxy
}

func (p *controllerProxy) ControllerGetCapabilities(ctx context.Context, r *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	return p.c.Controller.ControllerGetCapabilities(ctx, r)
}

func (p *controllerProxy) CreateVolume(ctx context.Context, r *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	return p.c.Controller.CreateVolume(ctx, r)
}

func (p *controllerProxy) DeleteVolume(ctx context.Context, r *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	return p.c.Controller.DeleteVolume(ctx, r)
}

func (p *controllerProxy) ListVolumes(ctx context.Context, r *spec.ListVolumesRequest) (*spec.ListVolumesResponse, error) {
	return p.c.Controller.ListVolumes(ctx, r)
}

type nodeProxy struct {
	spec.UnimplementedNodeServer
	*proxy
}

func (p *nodeProxy) NodeGetCapabilities(ctx context.Context, r *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	return p.c.Node.NodeGetCapabilities(ctx, r)
}

func (p *nodeProxy) NodeGetInfo(ctx context.Context, r *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return p.c.Node.NodeGetInfo(ctx, r)
}

func (p *nodeProxy) NodeStageVolume(ctx context.Context, r *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	return p.c.Node.NodeStageVolume(ctx, r)
}

func (p *nodeProxy) NodeUnstageVolume(ctx context.Context, r *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	return p.c.Node.NodeUnstageVolume(ctx, r)
}

func (p *nodeProxy) NodePublishVolume(ctx context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	return p.c.Node.NodePublishVolume(ctx, r)
}

func (p *nodeProxy) NodeUnpublishVolume(ctx context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	return p.c.Node.NodeUnpublishVolume(ctx, r)
}
