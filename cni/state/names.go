package state

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	separator = "@" // no name in CNI contains it
	suffix    = ".json"
	maxName   = 200 // what a file system allows, less what a temporary file adds
	hashed    = "~" // prefix of names that are too long and replaced by their hash
)

// short returns the name, or its hash if it is too long for a file name.
func short(name string) string {
	if len(name) <= maxName {
		return name
	}
	return fmt.Sprintf("%s%x", hashed, sha256.Sum256([]byte(name)))
}

// fileOf returns the name of an attachment's file.
func fileOf(containerID, ifName string) string {
	return short(containerID+separator+ifName) + suffix
}

func (s *Store) path(network, containerID, ifName string) (string, error) {
	if !cniname.Valid(network) || !cniname.Valid(containerID) || ifName == "" || ifName == "." || ifName == ".." || strings.ContainsRune(ifName, '/') {
		return "", fault.Invalid.Errorf("network %q, container %q, interface %q cannot be an attachment", network, containerID, ifName)
	}
	return filepath.Join(s.networkDir(network), fileOf(containerID, ifName)), nil
}

// networkDir returns the directory of a network, whose name is valid.
func (s *Store) networkDir(network string) string { return filepath.Join(s.dir, short(network)) }

// namesOf returns the names in a file's name; the attachment's are empty if that is a
// hash.
func namesOf(network, file string) (names Record, is bool) {
	base, is := strings.CutSuffix(file, suffix)
	if !is || strings.HasPrefix(file, ".") {
		return names, false
	}
	names.Network = network
	if strings.HasPrefix(base, hashed) {
		return names, true
	}
	names.ContainerID, names.IfName, is = strings.Cut(base, separator)
	return names, is
}

// read reads a record, which must have the given names or, if those of the attachment
// are unknown, the names to which its file belongs.
func read(path string, names Record) (*Record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.NotFound.Errorf("nothing is recorded of container %q, interface %q in network %q", names.ContainerID, names.IfName, names.Network)
	}
	if err != nil {
		return nil, fmt.Errorf("reading attachment: %w", err)
	}
	known := &names
	if names.ContainerID == "" {
		known = nil
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return known, fault.Invalid.Errorf("the record in %q is damaged (%w): DEL of the attachment removes it", path, err)
	}
	if known == nil && fileOf(r.ContainerID, r.IfName) == filepath.Base(path) {
		names.ContainerID, names.IfName = r.ContainerID, r.IfName
	}
	switch {
	case r.Version > Version:
		return nil, fault.FailedPrecondition.Errorf("the record in %q has version %d, and this program reads %d: use the version that wrote it", path, r.Version, Version)
	case r.Version < 1, r.Network != names.Network, r.ContainerID != names.ContainerID, r.IfName != names.IfName:
		return known, fault.Invalid.Errorf("the record in %q is damaged (it does not say whose it is): DEL of the attachment removes it", path)
	}
	return &r, nil
}
