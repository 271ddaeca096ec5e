package image

import (
	"maps"
	"path/filepath"
	"slices"
)

// impliedDirs are the directories that a layer has things in and does not list
// itself. In a file system made of the layers they are as the layers below have
// them (OCI image spec v1.1 layer.md), and overlay shows those of the topmost
// layer, so that this one has to have them too. The zero value is ready.
type impliedDirs struct {
	own     map[string]bool // listed by the layer
	implied map[string]bool
	hiding  map[string]bool // those of the layer that show nothing of what is below
}

// note takes down an entry of the layer by its path below the root, which is
// resolved and begins with a slash. A later entry may list a directory that an
// earlier one implied.
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

// hide takes down that a directory of the layer takes the place of one below that is
// gone: it has nothing of that one, nor do those in it.
func (d *impliedDirs) hide(path string) {
	if d.hiding == nil {
		d.hiding = map[string]bool{}
	}
	d.hiding[path] = true
}

// sorted returns the directories that are as those below, each before those in it.
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
