package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// madeParents records the parent cgroups that Pods name and that did not exist: the OCI
// runtime creates them for the first container, and only this runtime removes them. A
// kubelet creates the cgroups of its Pods itself, so then there are none. Slices belong
// to systemd.
type madeParents struct {
	file string // records each cgroup before it is created

	mu    sync.Mutex
	paths map[string]bool // nil until the file has been read
}

const parentsVersion = 1

type parentsRecord struct {
	Version int      `json:"version"`
	Paths   []string `json:"paths"`
}

// note records the missing part of the path.
func (m *madeParents) note(path string) error {
	if cgroup.IsUnit(path) {
		return nil
	}
	var missing []string
	for p := path; p != "/" && !cgroup.Exists(p); p = filepath.Dir(p) {
		missing = append(missing, p)
	}
	if len(missing) == 0 {
		return nil
	}
	return m.change(func(paths map[string]bool) error {
		for _, p := range missing {
			paths[p] = true
		}
		return nil
	})
}

// release removes recorded cgroups that are empty and not needed by the remaining Pods,
// whose parents are used.
func (m *madeParents) release(used []string) error {
	return m.change(func(paths map[string]bool) error {
		var errs []error
		// The deepest first.
		for _, p := range slices.Backward(slices.Sorted(maps.Keys(paths))) {
			if slices.ContainsFunc(used, func(u string) bool { return u == p || strings.HasPrefix(u, p+"/") }) {
				continue
			}
			if err := cgroup.Prune(p); err != nil {
				errs = append(errs, err)
			} else if !cgroup.Exists(p) {
				delete(paths, p)
			}
		}
		return errors.Join(errs...)
	})
}

// change modifies the record.
func (m *madeParents) change(alter func(map[string]bool) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths == nil {
		paths, err := readParents(m.file)
		if err != nil {
			return err
		}
		m.paths = paths
	}
	next := maps.Clone(m.paths)
	err := alter(next)
	if maps.Equal(next, m.paths) {
		return err
	}
	content, _ := json.Marshal(parentsRecord{parentsVersion, slices.Sorted(maps.Keys(next))}) // it can be encoded
	if werr := atomicfile.Write(m.file, content, 0o600); werr != nil {
		return errors.Join(err, fmt.Errorf("recording the cgroups that are made for Pods: %w", werr))
	}
	m.paths = next
	return err
}

func readParents(file string) (map[string]bool, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]bool{}, nil
	}
	var rec parentsRecord
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cgroups that were made for Pods: %w", err)
	}
	if rec.Version > parentsVersion {
		return nil, fault.FailedPrecondition.Errorf("%q is of version %d, and this program knows %d", file, rec.Version, parentsVersion)
	}
	paths := map[string]bool{}
	for _, p := range rec.Paths {
		paths[p] = true
	}
	return paths, nil
}

// releaseParents removes the cgroups created for Pods that no longer exist.
func (r *Runtime) releaseParents() error {
	var used []string
	sandboxes, _ := r.known()
	for _, s := range sandboxes {
		if path, own := r.parentCgroup(s); !own {
			used = append(used, path)
		}
	}
	return r.made.release(used)
}

// noteParent records the parent cgroup of a sandbox, which must be in r.sandboxes.
func (r *Runtime) noteParent(s *cri.Sandbox) error {
	path, own := r.parentCgroup(s)
	if own {
		return nil
	}
	return r.made.note(path)
}
