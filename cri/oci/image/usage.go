package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// FsInfo returns the store's usage of its file system: allocated bytes and inodes of
// blobs, including partial ones, of layers being unpacked, and of unpacked layers, which
// count once however many images share them. Layers were measured when they were
// unpacked, so this reads only one small file for each.
func (s *Store) FsInfo(context.Context) (*runtimeapi.FilesystemUsage, error) {
	layers, err := s.layersUsage()
	if err != nil {
		return nil, fmt.Errorf("measuring image store: %w", err)
	}
	sum := taken{layers.Bytes, layers.Inodes, time.Now()}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("measuring image store: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if path == filepath.Clean(s.layerPath("")) {
			continue
		}
		bytes, inodes, err := diskUsage(path)
		if err != nil {
			return nil, fmt.Errorf("measuring image store: %w", err)
		}
		sum.bytes, sum.inodes = sum.bytes+bytes, sum.inodes+inodes
	}
	return usageOf(s.dir, sum), nil
}

// layersUsage returns the usage of all unpacked layers, including the files that record
// it.
func (s *Store) layersUsage() (sum layerInfo, err error) {
	layers, err := os.ReadDir(s.layerPath(""))
	if err != nil {
		return sum, err
	}
	for _, l := range layers {
		path := filepath.Join(s.layerPath(l.Name()), "layer.json")
		info, err := readLayerInfo(path)
		if err != nil {
			return sum, fmt.Errorf("layer %q: %w", l.Name(), err)
		}
		bytes, inodes, err := diskUsage(path)
		if err != nil {
			return sum, fmt.Errorf("layer %q: %w", l.Name(), err)
		}
		sum.Bytes, sum.Inodes = sum.Bytes+info.Bytes+bytes, sum.Inodes+info.Inodes+inodes
	}
	return sum, nil
}

func usageOf(dir string, m taken) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  m.at.UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: dir},
		UsedBytes:  &runtimeapi.UInt64Value{Value: m.bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: m.inodes},
	}
}

// RootfsUsage returns the size of what was written to the root file system that Mount
// made below dir, and when it was measured: a large one is not measured at each call. It
// is zero if there is no root file system.
func (s *Store) RootfsUsage(dir string) (*runtimeapi.FilesystemUsage, error) {
	m, err := s.written.usage(upperDir(dir))
	if err != nil {
		return nil, fmt.Errorf("measuring root file system in %q: %w", dir, err)
	}
	return usageOf(dir, m), nil
}

func upperDir(dir string) string { return filepath.Join(dir, "upper") }

// ContainerFsInfo returns the usage of the root file systems, without the layers of their
// images: the sum of their RootfsUsage, with the oldest timestamp. They are assumed to be
// on one file system, which is the store's if there are none.
func (s *Store) ContainerFsInfo(ctx context.Context) (*runtimeapi.FilesystemUsage, error) {
	records, err := filepath.Glob(s.mountsPath("*.json"))
	if err != nil {
		return nil, err
	}
	sum := taken{at: time.Now()}
	dir := s.dir
	for _, path := range records {
		m, err := readMount(path)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("measuring root file systems: %w", err)
		}
		if m.Dir == "" { // released meanwhile
			continue
		}
		one, err := s.written.usage(upperDir(m.Dir))
		if err != nil {
			return nil, fmt.Errorf("measuring root file systems: %w", err)
		}
		sum.bytes, sum.inodes, dir = sum.bytes+one.bytes, sum.inodes+one.inodes, filepath.Dir(m.Dir)
		if one.at.Before(sum.at) {
			sum.at = one.at
		}
	}
	return usageOf(dir, sum), nil
}

// readLayerInfo returns zero for a layer that was collected meanwhile.
func readLayerInfo(path string) (info layerInfo, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return info, ignoreNotExist(err)
	}
	if err := json.Unmarshal(content, &info); err != nil {
		return info, fault.FailedPrecondition.Errorf("damaged: %w", err)
	}
	if info.Version != layerVersion {
		return info, fault.FailedPrecondition.Errorf("version %d, and this program reads %d", info.Version, layerVersion)
	}
	return info, nil
}
