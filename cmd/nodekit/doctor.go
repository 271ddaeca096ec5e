package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/hostcheck"
)

func newDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine can run a node",
		Long: `Doctor checks everything that a node needs from the machine, and prints for each thing
that is missing the command that provides it. It changes nothing. The exit code is 1 if
something is missing that every node needs.`,
		Args: noArgs,
	}
	format := addOutputFlag(cmd, "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		results := hostcheck.Run()
		if err := printChecks(cmd, results, format.value); err != nil {
			return err
		}
		if len(hostcheck.Missing(results)) > 0 {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

func printChecks(cmd *cobra.Command, results []hostcheck.Result, format string) error {
	if format != "" {
		return printDocument(cmd.OutOrStdout(), format, results)
	}
	return printCheckTable(cmd, results)
}

func printCheckTable(cmd *cobra.Command, results []hostcheck.Result) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	for _, r := range results {
		verdict := "ok"
		switch {
		case !r.OK && r.Needed:
			verdict = "MISSING"
		case !r.OK:
			verdict = "note"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, r.Name, r.Found)
		if !r.OK {
			fmt.Fprintf(w, "\t\t→ %s\n", r.Fix)
		}
	}
	return w.Flush()
}
