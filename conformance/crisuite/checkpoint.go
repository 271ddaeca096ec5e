package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// checkpointTime bounds a checkpoint; the caller must set a deadline.
const checkpointTime = 20 * time.Second

func checkpointRules() []rule {
	return []rule{
		must("CRI-CKPT-001", "writes a checkpoint of a container, if it does at all, and lets it run on",
			"CheckpointContainer", "CheckpointContainer checkpoints a container", checkCheckpoint, Isolation),
		must("CRI-CKPT-002", "refuses a checkpoint of a Pod that never was, if it makes them at all",
			"CheckpointPod", "If the pod sandbox does not exist, the deadline is exceeded, or the checkpoint operation fails, the call returns an error.", checkCheckpointNowhere),
	}
}

func checkCheckpoint(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "lines --interval 20ms 0")
	if err != nil {
		return err
	}
	archive := filepath.Join(s.in.TempDir, "checkpoint.tar")
	short, cancel := context.WithTimeout(ctx, checkpointTime)
	defer cancel()
	_, err = s.Runtime.CheckpointContainer(short, &runtimeapi.CheckpointContainerRequest{ContainerId: b.id, Location: archive})
	if err != nil {
		return unimplemented("CheckpointContainer", err)
	}
	info, err := os.Stat(archive)
	if err != nil {
		return fmt.Errorf("CheckpointContainer succeeded: %w", err)
	}
	if info.Size() == 0 {
		return errors.New("CheckpointContainer wrote an empty file")
	}
	return b.alive(ctx)
}

func checkCheckpointNowhere(ctx context.Context, s *subject) error {
	short, cancel := context.WithTimeout(ctx, checkpointTime)
	defer cancel()
	_, err := s.Runtime.CheckpointPod(short, &runtimeapi.CheckpointPodRequest{PodSandboxId: unknownID, OutputPath: s.in.TempDir, ContainerIds: []string{unknownID}})
	if err == nil {
		return errors.New("CheckpointPod of a sandbox that never was succeeded")
	}
	if errors.Is(err, cri.ErrUnimplemented) {
		return unimplemented("CheckpointPod", err)
	}
	return nil
}
