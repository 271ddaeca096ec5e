package image

import (
	"maps"
	"path/filepath"
	"slices"
)

// impliedDirs are the directories of which a layer contains entries but which it does not
// list itself. In the combined file system they have the attributes from the layers below
// (OCI image spec v1.1 layer.md), but overlay shows the attributes of the topmost layer,
// so this layer must have them, too. The zero value is ready.
type impliedDirs struct {
	own     map[string]bool // listed by the layer
	implied map[string]bool
	hiding  map[string]bool // directories of the layer that hide everything below them
}

// note records an entry of the layer by its resolved path, which begins with a slash. A
// later entry may list a directory that an earlier one implied.
func (d *impliedDirs) note(path string, isDir bool) {
	if d.own == nil {
		d.own, d.implied = map[string]bool{}, map[string]bool{}
	}
	for up := filepath.Dir(path); up != "/" && !d.own[up] && !d.implied[up]; up = filepath.Dir(up) {
		d.implied[up] = true
	}
	delete(d.implied, path)
	delete(d.own, path)
	if isDir {
		d.own[path] = true
	}
}

// hide records that a directory of the layer replaces a deleted one below: neither it nor
// the directories in it take anything from that one.
func (d *impliedDirs) hide(path string) {
	if d.hiding == nil {
		d.hiding = map[string]bool{}
	}
	d.hiding[path] = true
}

// sorted returns the directories that take their attributes from the layers below,
// parents first.
func (d *impliedDirs) sorted() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(d.implied)), d.isHidden)
}

func (d *impliedDirs) isHidden(path string) bool {
	for ; len(d.hiding) > 0 && path != "/"; path = filepath.Dir(path) {
		if d.hiding[path] {
			return true
		}
	}
	return false
}
