package csisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
)

var createIsIdempotent = conformance.Rule[Target]{
	ID: "CSI-CREATE-001", Level: conformance.Must, Tier: conformance.Quick,
	Title: "CreateVolume with the same name returns the same volume",
	Spec:  says("CreateVolume", "This operation MUST be idempotent. If a volume corresponding to the specified volume name already exists [...] and is compatible [...], the Plugin MUST reply 0 OK with the corresponding CreateVolumeResponse."),
	Check: with(func(ctx context.Context, s *session) error {
		if !s.creates() {
			return conformance.NotApplicable("the driver does not claim CREATE_DELETE_VOLUME")
		}
		first, err := s.create(ctx, "csisuite-same")
		if err != nil {
			return err
		}
		second, err := s.create(ctx, "csisuite-same")
		if err != nil {
			return fmt.Errorf("the second call: %w", err)
		}
		if first.GetVolumeId() != second.GetVolumeId() {
			return fmt.Errorf("two calls with one name made the volumes %q and %q", first.GetVolumeId(), second.GetVolumeId())
		}
		return nil
	}),
}

var createRefusesOtherSize = conformance.Rule[Target]{
	ID: "CSI-CREATE-002", Level: conformance.Must, Tier: conformance.Quick,
	Title: "CreateVolume with the same name and another size is refused",
	Spec:  says("CreateVolume Errors", "Volume already exists but is incompatible: 6 ALREADY_EXISTS. Indicates that a volume corresponding to the specified volume name already exists but is incompatible with the specified capacity_range [...]"),
	Check: with(func(ctx context.Context, s *session) error {
		if !s.creates() {
			return conformance.NotApplicable("the driver does not claim CREATE_DELETE_VOLUME")
		}
		v, err := s.create(ctx, "csisuite-size")
		if err != nil {
			return err
		}
		if v.GetCapacityBytes() == 0 {
			return conformance.NotApplicable("the driver does not report capacities, so no size is incompatible")
		}
		want := s.target.Volume.want("csisuite-size")
		want.Required = v.GetCapacityBytes() + 1<<20
		_, err = s.CreateVolume(ctx, want)
		return refused("CreateVolume with 1 MiB more", err, codes.AlreadyExists)
	}),
}

var publishIsIdempotent = conformance.Rule[Target]{
	ID: "CSI-NODE-001", Level: conformance.Must, Tier: conformance.Quick,
	Title: "NodePublishVolume shows the volume's bytes, and once more does no harm",
	Spec:  says("NodePublishVolume", "This operation MUST be idempotent. If the volume corresponding to the volume_id has already been published at the specified target_path, and is compatible [...], the Plugin MUST reply 0 OK."),
	Check: with(func(ctx context.Context, s *session) error {
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return err
		}
		if err := s.write("a"); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return fmt.Errorf("the second call: %w", err)
		}
		if err := s.read("a"); err != nil {
			return fmt.Errorf("after the second call: %w", err)
		}
		// At another path only the content of the volume itself may appear.
		if err := s.unpublish(ctx, v, "a"); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "b", false); err != nil {
			return fmt.Errorf("publishing at another path: %w", err)
		}
		if err := s.read("b"); err != nil {
			return fmt.Errorf("published at another path: %w", err)
		}
		return s.down(ctx, v, "b")
	}),
}

var publishReadOnly = conformance.Rule[Target]{
	ID: "CSI-NODE-002", Level: conformance.Must, Tier: conformance.Quick,
	Title: "a volume that is published read-only takes no writes",
	Spec:  says("NodePublishVolumeRequest", "Indicates SP MUST publish the volume in readonly mode."),
	Check: with(func(ctx context.Context, s *session) error {
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "ro", true); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.path("ro"), "csisuite.txt"), nil, 0o600); err == nil {
			return errors.New("a file could be made in a volume that was published with readonly=true")
		}
		return s.down(ctx, v, "ro")
	}),
}

var publishRefusesOtherArguments = conformance.Rule[Target]{
	ID: "CSI-NODE-003", Level: conformance.Should, Tier: conformance.Quick,
	Title: "NodePublishVolume at the same path with other arguments is refused",
	Spec:  says("NodePublishVolume", "what the Plugin SHOULD return when receiving a second NodePublishVolume on the same volume on the same node: T1=T2, P1!=P2: ALREADY_EXISTS"),
	Check: with(func(ctx context.Context, s *session) error {
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return err
		}
		err = s.NodePublish(ctx, s.use(v), s.path("a"), true)
		if err := refused("a second NodePublishVolume, with readonly=true", err, codes.AlreadyExists); err != nil {
			return err
		}
		return s.down(ctx, v, "a")
	}),
}

var inversesAreIdempotent = conformance.Rule[Target]{
	ID: "CSI-NODE-004", Level: conformance.Must, Tier: conformance.Quick,
	Title: "NodeUnpublishVolume, NodeUnstageVolume and DeleteVolume may be repeated",
	Spec:  says("NodeUnpublishVolume", "This operation MUST be idempotent. If this RPC failed, or the CO does not know if it failed or not, it can choose to call NodeUnpublishVolume again."),
	Check: with(func(ctx context.Context, s *session) error {
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return s.unpublish(ctx, v, "a") },
			func() error { return s.unstage(ctx, v) },
			func() error { return s.remove(ctx, v) },
		} {
			if err := step(); err != nil {
				return err
			}
			if err := step(); err != nil {
				return fmt.Errorf("the second call: %w", err)
			}
		}
		return nil
	}),
}

var killBetweenStageAndPublish = conformance.Rule[Target]{
	ID: "CSI-CRASH-001", Level: conformance.Must, Tier: conformance.Crash,
	Title: "a driver that is killed between staging and publishing goes on where it was",
	Spec:  says("NodePublishVolume", "If this RPC failed, or the CO does not know if it failed or not, it MAY choose to call NodePublishVolume again, or choose to call NodeUnpublishVolume."),
	Check: with(func(ctx context.Context, s *session) error {
		if err := s.canKill(); err != nil {
			return err
		}
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		s.kill()
		if err := s.restart(ctx); err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return fmt.Errorf("staging again after the restart: %w", err)
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return fmt.Errorf("after the restart: %w", err)
		}
		if err := s.write("a"); err != nil {
			return err
		}
		s.kill()
		if err := s.restart(ctx); err != nil {
			return err
		}
		if err := s.publish(ctx, v, "a", false); err != nil {
			return fmt.Errorf("publishing again after the second restart: %w", err)
		}
		if err := s.read("a"); err != nil {
			return fmt.Errorf("after the second restart: %w", err)
		}
		if err := s.down(ctx, v, "a"); err != nil {
			return fmt.Errorf("after the second restart: %w", err)
		}
		return s.clean(ctx)
	}),
}

var killInCreate = conformance.Rule[Target]{
	ID: "CSI-CRASH-002", Level: conformance.Must, Tier: conformance.Crash,
	Title: "a driver that is killed in CreateVolume makes one volume in the end",
	Spec:  says("CreateVolume", "This operation MUST be idempotent."),
	Check: func(ctx context.Context, in *conformance.Input[Target]) error {
		return with(func(ctx context.Context, s *session) error {
			return s.killInCreate(ctx, in.Rand.Float64)
		})(ctx, in)
	},
}

// killInCreate kills the driver in each part of the time that it takes to create a
// volume, at a moment within the part that within (from 0 to 1) chooses.
func (s *session) killInCreate(ctx context.Context, within func() float64) error {
	if err := s.canKill(); err != nil {
		return err
	}
	if !s.creates() {
		return conformance.NotApplicable("the driver does not claim CREATE_DELETE_VOLUME")
	}
	before, err := s.list(ctx)
	if err != nil {
		return err
	}
	took, err := s.creation(ctx)
	if err != nil {
		return err
	}
	const parts = 5
	for i := range parts {
		name := fmt.Sprintf("csisuite-crash-%d", i)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			s.create(ctx, name) //nolint:errcheck // the kill decides what it answers
		}()
		time.Sleep(time.Duration(float64(took) * (float64(i) + within()) / parts))
		s.kill()
		<-gone
		if err := s.restart(ctx); err != nil {
			return err
		}
		v, err := s.create(ctx, name)
		if err != nil {
			return fmt.Errorf("repeated after a kill: %w", err)
		}
		again, err := s.create(ctx, name)
		if err != nil {
			return fmt.Errorf("repeated once more: %w", err)
		}
		if v.GetVolumeId() != again.GetVolumeId() {
			return fmt.Errorf("after a kill one name made the volumes %q and %q", v.GetVolumeId(), again.GetVolumeId())
		}
		if err := s.alone(ctx, append(before, v.GetVolumeId())); err != nil {
			return err
		}
		if err := s.remove(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// creation returns how long the driver takes to create a volume.
func (s *session) creation(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	v, err := s.create(ctx, "csisuite-time")
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	return took, s.remove(ctx, v)
}

// alone checks that the driver lists no other volumes than these.
func (s *session) alone(ctx context.Context, known []string) error {
	list, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, id := range list {
		if !slices.Contains(known, id) {
			return fmt.Errorf("a kill in CreateVolume left the volume %q, which no answer ever named", id)
		}
	}
	return nil
}

// list returns the ids of all volumes, none for a driver that cannot list.
func (s *session) list(ctx context.Context) (ids []string, err error) {
	if !s.info.Can(spec.ControllerServiceCapability_RPC_LIST_VOLUMES) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for token := ""; ; {
		page, err := s.Controller.ListVolumes(ctx, &spec.ListVolumesRequest{StartingToken: token})
		if err != nil {
			return nil, answered("ListVolumes", err, "OK")
		}
		for _, e := range page.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		if token = page.GetNextToken(); token == "" {
			return ids, nil
		}
	}
}

var nothingRemains = conformance.Rule[Target]{
	ID: "CSI-LEAK-001", Level: conformance.Must, Tier: conformance.Quick,
	Title: "a volume's whole life leaves no mount, file or process",
	Spec:  says("NodeUnpublishVolumeRequest", "The SP MUST delete the file or directory it created at this path."),
	Check: with(func(ctx context.Context, s *session) error {
		v, err := s.volume(ctx)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, v); err != nil {
			return err
		}
		for _, target := range []string{"a", "b"} {
			if err := s.publish(ctx, v, target, false); err != nil {
				return err
			}
			if err := s.write(target); err != nil {
				return err
			}
			if err := s.unpublish(ctx, v, target); err != nil {
				return err
			}
		}
		if err := s.unstage(ctx, v); err != nil {
			return err
		}
		if err := s.remove(ctx, v); err != nil {
			return err
		}
		return s.clean(ctx)
	}),
}

// clean ends the driver, if the suite started it, and looks for what is left that was
// not there before.
func (s *session) clean(ctx context.Context) error {
	for _, id := range s.staged { // the directories are ours
		if err := os.Remove(s.staging(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("after NodeUnstageVolume the staging directory is not free: %w", err)
		}
	}
	if err := s.stop(); err != nil {
		return fmt.Errorf("ending the driver: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	var errs []error
	for _, l := range leak.Settled(ctx, s.before) {
		errs = append(errs, fmt.Errorf("left behind: %s", l))
	}
	return errors.Join(errs...)
}
