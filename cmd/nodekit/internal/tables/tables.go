// Package tables is the common part of the plugin benchmarks: a list of things to
// measure, from which a user may choose.
package tables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Table is one of the measurements, in a lab L. Run writes the table.
type Table[L any] struct {
	Name string
	Run  func(L, context.Context) error
}

// Names returns the names of the tables for people.
func Names[L any](all []Table[L]) string {
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = t.Name
	}
	return strings.Join(names, ", ")
}

// Check returns fault.Invalid for an unknown table.
func Check[L any](all []Table[L], only []string) error {
	for _, name := range only {
		if !slices.ContainsFunc(all, func(t Table[L]) bool { return t.Name == name }) {
			return fault.Invalid.Errorf("no table %q: there are %s", name, Names(all))
		}
	}
	return nil
}

// Run runs the chosen tables in order, or all of them if only is empty.
func Run[L any](ctx context.Context, all []Table[L], only []string, lab L) error {
	for _, t := range all {
		if len(only) > 0 && !slices.Contains(only, t.Name) {
			continue
		}
		err := t.Run(lab, ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("benchmark cut short: %w", ctx.Err())
		}
		if err != nil {
			return fmt.Errorf("measuring %s: %w", t.Name, err)
		}
	}
	return nil
}
