package crisuite

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkpointCrashRules kill the runtime during a checkpoint. A container may exit then,
// as it does when the CRIU that holds its process is killed; the kubelet sees that, and
// starts another one. It must not stay frozen, which nobody sees.
func checkpointCrashRules() []rule {
	return []rule{
		crash(relied("CRI-CRASH-028", "leaves no container frozen when CheckpointContainer is killed half way",
			"checkpoint API", "A container that was checkpointed for somebody to look at goes on as if nothing had been.", nil), checkKilledDuringCheckpoint, Survival, Containers, Checkpoint),
		crash(must("CRI-CRASH-029", "leaves no Pod frozen when CheckpointPod is killed half way",
			"CheckpointPod", "This produces one consistent pod-wide cut while ensuring the runtime never returns a frozen pod.", nil), checkKilledDuringPodCheckpoint, Survival, Containers, Checkpoint),
		crash(facto("CRI-CRASH-030", "leaves no part of an archive when CheckpointContainer is killed half way, and writes another one",
			"checkpoint API", "A file that is there is a whole checkpoint: nothing else tells who finds it in the kubelet's directory.", nil), checkNoPartOfACheckpoint, Survival, Containers, Checkpoint),
	}
}

// thawed returns nil when the program, which prints endlessly, still does, or has ended.
func (b *box) thawed(ctx context.Context) error {
	still := b.goesOn(ctx)
	if still == nil {
		return nil
	}
	if err := b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED); err != nil {
		return errors.Join(still, err)
	}
	return until(ctx, settleTime, b.ended)
}

// archive requests a checkpoint of the container in a file.
func (b *box) archive(ctx context.Context, file string) error {
	ctx, cancel := timed(ctx)
	defer cancel()
	_, err := b.s.Runtime.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: b.id, Location: file})
	if err != nil {
		return unimplemented("CheckpointContainer", err)
	}
	return nil
}

// printingWitnessed is printing that also waits until the container's process was seen.
func (s *subject) printingWitnessed(ctx context.Context) (*box, error) {
	b, err := s.printing(ctx)
	if err != nil {
		return nil, err
	}
	return b, b.witness(ctx)
}

// archiving runs rounds of CheckpointContainer, each with a file of its own.
func (s *subject) archiving(ctx context.Context, look func(b *box, file string) error) error {
	var b *box
	file := ""
	return s.rounds(ctx, cut{
		prepare: func(round int) (err error) {
			file = filepath.Join(s.in.TempDir, fmt.Sprintf("checkpoint%d.tar", round))
			b, err = s.printingWitnessed(ctx)
			return err
		},
		call: func() error { return b.archive(ctx, file) },
		look: func() error { return look(b, file) },
	})
}

func checkKilledDuringCheckpoint(ctx context.Context, s *subject) error {
	return s.archiving(ctx, func(b *box, _ string) error { return b.thawed(ctx) })
}

// checkKilledDuringPodCheckpoint does not look at files: what a killed runtime has
// written is up to the caller, who owns the directory.
func checkKilledDuringPodCheckpoint(ctx context.Context, s *subject) error {
	var c *checkpointable
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) {
			if err := os.RemoveAll(filepath.Join(s.in.TempDir, "checkpoint")); err != nil {
				return err
			}
			if c, err = s.checkpointable(ctx); err != nil {
				return err
			}
			return errors.Join(c.one.witness(ctx), c.two.witness(ctx))
		},
		call: func() error { return c.taken(ctx) },
		look: func() error { return errors.Join(c.one.thawed(ctx), c.two.thawed(ctx)) },
	})
}

func checkNoPartOfACheckpoint(ctx context.Context, s *subject) error {
	return s.archiving(ctx, func(b *box, file string) error {
		again := b
		if err := b.alive(ctx); err != nil { // it has ended, which another rule reports
			if again, err = s.printingWitnessed(ctx); err != nil {
				return err
			}
		}
		other := file + ".again"
		if err := again.archive(ctx, other); err != nil {
			return fmt.Errorf("tried again: %w", err)
		}
		return asWhole(file, other)
	})
}

// asWhole returns nil when file does not exist, or is as complete as the other one. The
// CRI does not define the archive's format: only if the other one is a tar file must this
// one be a complete one, too.
func asWhole(file, other string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() == 0:
		return errors.New("the archive of the call that was killed is empty")
	}
	if _, err := os.Stat(other); err != nil {
		return fmt.Errorf("CheckpointContainer succeeded: %w", err)
	}
	if readTar(other) != nil {
		return nil
	}
	if err := readTar(file); err != nil {
		return fmt.Errorf("the archive of the call that was killed, of %d bytes, is a part of one: %w", info.Size(), err)
	}
	return nil
}

// readTar reads a tar file to the two empty blocks that end it.
func readTar(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); err == nil; {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	end := make([]byte, 1024)
	if _, err := f.Seek(-int64(len(end)), io.SeekEnd); err != nil {
		return err
	}
	if _, err := io.ReadFull(f, end); err != nil {
		return err
	}
	if len(bytes.Trim(end, "\x00")) > 0 {
		return errors.New("it has no end")
	}
	return nil
}
