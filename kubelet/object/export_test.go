package object

import (
	"maps"
	"slices"
)

// TablePaths returns the paths of the table of fields.
func TablePaths() []string { return slices.Sorted(maps.Keys(podTable())) }
