package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// explain has a command and those below it say how they are used when they are
// used wrongly, and refuse the name of a command that they do not have: cobra
// answers it with the help, and exit code 0.
func explain(cmd *cobra.Command) {
	if !cmd.Runnable() {
		cmd.Args, cmd.DisableFlagsInUseLine = cobra.NoArgs, true
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return usedWrongly(cmd, check(cmd, args)) }
	}
	for _, c := range cmd.Commands() {
		explain(c)
	}
}

func usedWrongly(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	if cmd.HasAvailableSubCommands() {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		return fmt.Errorf("%w: there are %s", err, strings.Join(names, ", "))
	}
	return fmt.Errorf("%w\nusage: %s\n%s --help says more", err, cmd.UseLine(), cmd.CommandPath())
}
