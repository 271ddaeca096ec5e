package class

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// RDT are classes of shares in a processor's caches and its memory's bandwidth
// (Linux, Documentation/filesystems/resctrl.rst). nil has none.
type RDT struct {
	allowed []string
	resctrl func() (string, error)
}

// NewRDT returns the classes that Pods may choose. They are groups below the mount
// point of resctrl, which resctrl finds; nil looks at the mount table. A group need
// not be there before a container is made in it. A name that no group can have is
// fault.Invalid.
//
// The groups are the administrator's, made by any tool or with mkdir. That
// goresctrl could make them from a file was left; docs/decisions/001 says why.
func NewRDT(allowed []string, resctrl func() (string, error)) (*RDT, error) {
	for _, name := range allowed {
		if name == "" || strings.ContainsAny(name, "/\n") || slices.Contains([]string{".", "..", "info", "mon_data", "mon_groups"}, name) {
			return nil, fault.Invalid.Errorf("RDT class %q: no group of resctrl can have this name", name)
		}
	}
	if resctrl == nil {
		resctrl = mounted
	}
	return &RDT{allowed: allowed, resctrl: resctrl}, nil
}

// Names are the classes that Pods may choose.
func (r *RDT) Names() []string {
	if r == nil {
		return nil
	}
	return slices.Clone(r.allowed)
}

// Check reports why a container cannot be in the class. The error is fault.Invalid
// for a class that Pods may not choose, and fault.FailedPrecondition where they may
// choose none, or the machine lacks RDT or the group.
func (r *RDT) Check(name string) error {
	switch {
	case len(r.Names()) == 0:
		return fault.FailedPrecondition.Errorf("RDT class %q is asked for, and Pods may choose none here: start the runtime with --rdt-class for each that they may", name)
	case !slices.Contains(r.allowed, name):
		return fault.Invalid.Errorf("RDT class %q is not one that Pods may choose, which are %s: start the runtime with --rdt-class for others", name, list(r.allowed))
	}
	at, err := r.resctrl()
	if err != nil {
		return fmt.Errorf("RDT class %q: %w", name, err)
	}
	if !isGroup(filepath.Join(at, name)) {
		return fault.FailedPrecondition.Errorf("RDT class %q has no group in %q, where there are %s: "+
			"make one with mkdir, and say in its schemata what it gets", name, at, list(groups(at)))
	}
	return nil
}

// groups are the names of those that are there, for the text of an error.
func groups(at string) (names []string) {
	entries, _ := os.ReadDir(at)
	for _, e := range entries {
		if isGroup(filepath.Join(at, e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names
}

// isGroup tells a group from the other directories of resctrl, which hold no tasks.
func isGroup(dir string) bool {
	fi, err := os.Stat(filepath.Join(dir, "tasks"))
	return err == nil && fi.Mode().IsRegular()
}

// mounted is where resctrl is, as the OCI runtimes look for it.
func mounted() (string, error) {
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if m.Type == "resctrl" {
			return m.Point, nil
		}
	}
	return "", fault.FailedPrecondition.Errorf("resctrl is not mounted: on a machine whose processor has RDT, mount -t resctrl resctrl /sys/fs/resctrl makes it available")
}
