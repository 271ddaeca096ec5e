package object

import (
	"maps"
	"slices"
)

// TablePaths returns the paths of the tables of fields.
func TablePaths() []string {
	table := podTable()
	maps.Copy(table, ephemeralTable())
	return slices.Sorted(maps.Keys(table))
}
