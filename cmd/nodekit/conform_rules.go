package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/conformance/csisuite"
	"github.com/nodekit-project/nodekit/conformance/devicesuite"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newConformRulesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rules SUITE",
		Short: "List the rules of a suite, and the facts that a profile may declare",
		Args:  oneArg("SUITE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			suites := map[string]func(io.Writer) error{
				"cni":          lister(cnisuite.Suite()),
				"cni-runtime":  lister(cniruntimesuite.Suite()),
				"cri":          lister(crisuite.Suite()),
				"cri-client":   lister(criclientsuite.Suite()),
				"csi":          lister(csisuite.Suite()),
				"deviceplugin": lister(devicesuite.Suite()),
			}
			list, ok := suites[args[0]]
			if !ok {
				return fault.Invalid.Errorf("no suite %q: there are %q", args[0], slices.Sorted(maps.Keys(suites)))
			}
			return list(cmd.OutOrStdout())
		},
	}
}

// lister returns a function that lists a suite.
func lister[T any](s *conformance.Suite[T]) func(io.Writer) error {
	return func(w io.Writer) error {
		const columnGap = 2
		out := tabwriter.NewWriter(w, 0, 0, columnGap, ' ', 0)
		for i := range s.Rules {
			r := &s.Rules[i]
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", r.ID, r.Level, r.Tier, r.Title)
		}
		err := out.Flush()
		if len(s.Facts) == 0 {
			return err
		}
		fmt.Fprintf(w, "\nfacts of a profile:\n")
		for _, name := range slices.Sorted(maps.Keys(s.Facts)) {
			fmt.Fprintf(out, "  %s\t%s\n", name, s.Facts[name])
		}
		return errors.Join(err, out.Flush())
	}
}
