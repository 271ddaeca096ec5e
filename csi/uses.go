package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// usesVersion is the version of the files below. Newer versions are rejected.
const usesVersion = 1

// uses records with which arguments each volume was staged and published on this
// machine, as the specification's tables for repeated calls require. An entry is
// written durably before the author's function runs, and removed after the inverse has
// succeeded.
//
// An entry alone proves nothing: the process may have died before the mount, the
// machine may have been rebooted, or an administrator may have unmounted the path. So
// an entry counts only while something is at its path or is being created there.
type uses struct {
	dir   string // "" keeps everything in memory
	locks *locks

	mu      sync.Mutex
	volumes map[string]*volumeUse
}

// volumeUse is the file of one volume.
type volumeUse struct {
	mu        sync.Mutex
	Version   int               `json:"version"`
	Volume    string            `json:"volume"`
	Staged    map[string]string `json:"staged,omitempty"`    // fingerprint by staging path
	Published map[string]string `json:"published,omitempty"` // fingerprint by target path
}

// openUses reads what earlier processes recorded in dir.
func openUses(dir string, l *locks) (*uses, error) {
	u := &uses{dir: dir, locks: l, volumes: map[string]*volumeUse{}}
	if dir == "" {
		return u, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of published volumes: %w", err)
	}
	if err := atomicfile.Clean(dir); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		v := &volumeUse{}
		raw, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", f, err)
		}
		if v.Version > usesVersion {
			return nil, fault.FailedPrecondition.Errorf("%q has format version %d, and this program reads %d: use the version that wrote it", f, v.Version, usesVersion)
		}
		u.volumes[v.Volume] = v
	}
	return u, nil
}

// stage applies the rule of CSI v1.13 NodeStageVolume for a volume that has "already
// been staged [...] but is incompatible with the specified volume_capability":
// ALREADY_EXISTS.
func (u *uses) stage(r *StageRequest) error {
	v := u.volume(r.VolumeID)
	v.mu.Lock()
	defer v.mu.Unlock()
	print := fingerprint(r.Capability)
	if old, ok := v.Staged[r.StagingPath]; ok && old != print {
		if on, err := alive(r.StagingPath); err != nil || on {
			return errors.Join(err, fault.AlreadyExists.Errorf("volume %q is staged at %q with another capability", r.VolumeID, r.StagingPath))
		}
	}
	v.Staged[r.StagingPath] = print
	return u.save(v)
}

// publish applies the tables of CSI v1.13 NodePublishVolume. It does not compare
// contexts: the kubelet repeats calls with fresh tokens in them.
func (u *uses) publish(r *PublishRequest) error {
	v := u.volume(r.VolumeID)
	v.mu.Lock()
	defer v.mu.Unlock()
	print := fingerprint(struct {
		Capability Capability
		ReadOnly   bool
		Staging    string
	}{r.Capability, r.ReadOnly, r.StagingPath})
	for target, old := range v.Published {
		same := target == r.TargetPath
		if same && old == print || !same && r.Capability.Access.severalTargets() {
			continue
		}
		on, err := alive(target)
		if err != nil {
			return err
		}
		switch {
		case same && on:
			return fault.AlreadyExists.Errorf("volume %q is published at %q with other arguments", r.VolumeID, target)
		case !same && (on || u.locks.busy(onTarget(target))):
			return fault.FailedPrecondition.Errorf("volume %q is published at %q, and access mode %s allows one target", r.VolumeID, target, r.Capability.Access)
		}
	}
	v.Published[r.TargetPath] = print
	return u.save(v)
}

func (u *uses) unstaged(id, path string) error {
	v := u.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.Staged[path]; !ok {
		return nil
	}
	delete(v.Staged, path)
	return u.save(v)
}

func (u *uses) unpublished(id, target string) error {
	v := u.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.Published[target]; !ok {
		return nil
	}
	delete(v.Published, target)
	return u.save(v)
}

// where returns a path at which the volume is in use, or "" if there is none.
func (u *uses) where(id string) string {
	v := u.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, paths := range []map[string]string{v.Published, v.Staged} {
		for _, p := range slices.Sorted(maps.Keys(paths)) {
			if on, err := alive(p); on || err != nil {
				return p
			}
		}
	}
	return ""
}

func (u *uses) volume(id string) *volumeUse {
	u.mu.Lock()
	defer u.mu.Unlock()
	v := u.volumes[id]
	if v == nil {
		v = &volumeUse{Version: usesVersion, Volume: id}
		u.volumes[id] = v
	}
	if v.Staged == nil {
		v.Staged = map[string]string{}
	}
	if v.Published == nil {
		v.Published = map[string]string{}
	}
	return v
}

// save writes v durably, or removes its file if no entry is left. The caller holds
// v.mu.
func (u *uses) save(v *volumeUse) error {
	if u.dir == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(v.Volume))
	file := filepath.Join(u.dir, hex.EncodeToString(sum[:16])+".json")
	if len(v.Staged)+len(v.Published) == 0 {
		return atomicfile.Remove(file)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, raw, 0o600)
}

// alive reports whether a staging or target path holds anything: a mount, or the files
// of a driver that does not mount. An empty directory does not count, because some
// orchestrators create one before the call.
func alive(path string) (bool, error) {
	on, err := mount.IsMountPoint(path)
	if on || err != nil && !errors.Is(err, mount.ErrUnsupported) {
		return on, err
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || !fi.IsDir() {
		return err == nil, err
	}
	entries, err := os.ReadDir(path)
	return len(entries) > 0, err
}

func fingerprint(v any) string {
	raw, err := json.Marshal(v)
	if err != nil { // strings, numbers and booleans always marshal
		panic("csi: marshalling a capability: " + err.Error())
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}
