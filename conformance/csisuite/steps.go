package csisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/csi/client"
)

// The steps are those of an orchestrator, with errors that say which call was made
// and what it returned.

func (s *session) creates() bool {
	return s.info.Can(spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME)
}

// volume returns a volume to use: a new one, or the profile's.
func (s *session) volume(ctx context.Context) (*spec.Volume, error) {
	if !s.info.HasNode {
		return nil, conformance.NotApplicable("the driver has no node service")
	}
	v := &spec.Volume{VolumeId: s.target.Volume.ID}
	if s.creates() {
		var err error
		if v, err = s.create(ctx, "csisuite-"+filepath.Base(s.dir)); err != nil {
			return nil, err
		}
	}
	if v.GetVolumeId() == "" {
		return nil, conformance.NotApplicable("the driver creates no volumes, and the profile names none in the fact %q", factVolume)
	}
	return v, s.attach(ctx, v)
}

func (s *session) attaches() bool {
	return s.info.Can(spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME)
}

// attach precedes everything on the node, for a driver that requires it.
func (s *session) attach(ctx context.Context, v *spec.Volume) error {
	if !s.attaches() {
		return nil
	}
	id := v.GetVolumeId()
	s.attached[id] = nil
	out, err := s.ControllerPublish(ctx, s.use(v), s.info.NodeID, false)
	s.attached[id] = out
	return answered("ControllerPublishVolume", err, "OK")
}

func (s *session) detach(ctx context.Context, v *spec.Volume) error {
	id := v.GetVolumeId()
	if _, ok := s.attached[id]; !ok {
		return nil
	}
	if err := s.ControllerUnpublish(ctx, id, s.info.NodeID, nil); err != nil {
		return answered("ControllerUnpublishVolume", err, "OK")
	}
	delete(s.attached, id)
	return nil
}

func (s *session) create(ctx context.Context, name string) (*spec.Volume, error) {
	v, err := s.CreateVolume(ctx, s.target.Volume.want(name))
	if err != nil {
		return nil, answered("CreateVolume", err, "OK")
	}
	if v.GetVolumeId() == "" {
		return nil, errors.New("CreateVolume answered OK without a volume id")
	}
	s.volumes = append(s.volumes, v.GetVolumeId())
	return v, nil
}

func (s *session) use(v *spec.Volume) client.Use {
	u := client.Use{VolumeID: v.GetVolumeId(), Access: s.target.Volume.access(), Context: v.GetVolumeContext(), PublishContext: s.attached[v.GetVolumeId()]}
	if s.stages() {
		u.StagingPath = s.staging(v.GetVolumeId())
	}
	return u
}

func (s *session) stages() bool {
	return s.info.NodeCan(spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
}

func (s *session) stage(ctx context.Context, v *spec.Volume) error {
	if !s.stages() {
		return nil
	}
	if err := os.MkdirAll(s.staging(v.GetVolumeId()), 0o750); err != nil {
		return err
	}
	s.staged = append(s.staged, v.GetVolumeId())
	return answered("NodeStageVolume", s.NodeStage(ctx, s.use(v)), "OK")
}

func (s *session) publish(ctx context.Context, v *spec.Volume, target string, readOnly bool) error {
	id := v.GetVolumeId()
	s.targets[id] = append(s.targets[id], s.path(target))
	return answered("NodePublishVolume", s.NodePublish(ctx, s.use(v), s.path(target), readOnly), "OK")
}

func (s *session) unpublish(ctx context.Context, v *spec.Volume, target string) error {
	if err := s.NodeUnpublish(ctx, v.GetVolumeId(), s.path(target)); err != nil {
		return answered("NodeUnpublishVolume", err, "OK")
	}
	_, err := os.Lstat(s.path(target))
	switch {
	case err == nil:
		return errors.New("NodeUnpublishVolume answered OK, and the target path still exists")
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("NodeUnpublishVolume answered OK, and looking at the target path: %w", err)
	}
	return nil
}

// unstage ends the staging of a volume. The directory belongs to the orchestrator.
func (s *session) unstage(ctx context.Context, v *spec.Volume) error {
	if !s.stages() {
		return nil
	}
	return answered("NodeUnstageVolume", s.NodeUnstage(ctx, v.GetVolumeId(), s.staging(v.GetVolumeId())), "OK")
}

func (s *session) remove(ctx context.Context, v *spec.Volume) error {
	if err := s.detach(ctx, v); err != nil {
		return err
	}
	if !s.creates() {
		return nil
	}
	return answered("DeleteVolume", s.DeleteVolume(ctx, v.GetVolumeId(), nil), "OK")
}

// down ends a published volume completely.
func (s *session) down(ctx context.Context, v *spec.Volume, target string) error {
	if err := s.unpublish(ctx, v, target); err != nil {
		return err
	}
	if err := s.unstage(ctx, v); err != nil {
		return err
	}
	return s.remove(ctx, v)
}

// bytes are what the suite writes into volumes.
const bytes = "written by the CSI suite\n"

func (s *session) write(target string) error {
	if err := s.target.Volume.mustWrite(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.path(target), "csisuite.txt"), []byte(bytes), 0o600); err != nil {
		return fmt.Errorf("NodePublishVolume answered OK, and the volume takes no file: %w", err)
	}
	return nil
}

func (s *session) read(target string) error {
	got, err := os.ReadFile(filepath.Join(s.path(target), "csisuite.txt"))
	if err != nil {
		return fmt.Errorf("the file written into the volume before is not there: %w", err)
	}
	if string(got) != bytes {
		return fmt.Errorf("the file written into the volume before holds %q, not %q", got, bytes)
	}
	return nil
}

// answered returns nil for a nil error, and else what a call answered and what was
// expected.
func answered(method string, err error, want string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s answered %s (%s), expected %s", method, status.Code(err), status.Convert(err).Message(), want)
}

// refused returns nil if err has the code, and else what came instead.
func refused(method string, err error, want codes.Code) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s answered OK, expected %s", method, want)
	case status.Code(err) != want:
		return answered(method, err, want.String())
	}
	return nil
}
