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

// FsInfo returns what the store takes on its file system: allocated bytes and
// inodes of blobs, also of those half fetched, of what is being unpacked, and of
// unpacked layers, counted once however many images share them. Layers were measured
// when they were unpacked, so that it costs one small file each.
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

// layersUsage is what all unpacked layers take, with the files that say so.
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

// RootfsUsage returns what was written to the root file system that Mount made
// below dir, and when that was true: of a large one it is not measured at each
// call. Nothing, for a directory that has none.
func (s *Store) RootfsUsage(dir string) (*runtimeapi.FilesystemUsage, error) {
	m, err := s.written.usage(upperDir(dir))
	if err != nil {
		return nil, fmt.Errorf("measuring root file system in %q: %w", dir, err)
	}
	return usageOf(dir, m), nil
}

func upperDir(dir string) string { return filepath.Join(dir, "upper") }

// ContainerFsInfo returns what the root file systems take, beside the layers of
// their images: the sum of their RootfsUsage, as old as the oldest. They are
// taken to be on one file system, which is the store's while there is none.
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
