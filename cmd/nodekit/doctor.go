package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/hostcheck"
)

func newDoctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine can run a node",
		Long: `Doctor looks at everything that a node needs from its machine and names, for each
thing that is missing, the command that mends it. It changes nothing. The exit code is 1
when something that every node needs is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			results := hostcheck.Run()
			if err := printChecks(cmd, results, output); err != nil {
				return err
			}
			if len(hostcheck.Missing(results)) > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json or yaml")
	return cmd
}

func printChecks(cmd *cobra.Command, results []hostcheck.Result, output string) error {
	switch output {
	case "":
		return printCheckTable(cmd, results)
	case "json":
		out, err := json.MarshalIndent(results, "", "  ")
		fmt.Fprintln(cmd.OutOrStdout(), string(out))
		return err
	case "yaml":
		out, err := yaml.Marshal(results)
		fmt.Fprint(cmd.OutOrStdout(), string(out))
		return err
	}
	return fmt.Errorf("output format %q: want json or yaml", output)
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
