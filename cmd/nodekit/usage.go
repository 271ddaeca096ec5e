package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodekit-project/nodekit/internal/spelling"
)

// explain makes a command and its subcommands print their usage when they are used
// wrongly, and reject the name of an unknown subcommand, for which cobra prints the
// help with exit code 0.
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
	return fmt.Errorf("%w%s\nusage: %s\n%s --help says more", err, flagMeant(cmd, err), cmd.UseLine(), cmd.CommandPath())
}

// flagMeant suggests the flag of the command that an unknown one may have meant.
func flagMeant(cmd *cobra.Command, err error) string {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	return spelling.Meant("--"+unknown.GetSpecifiedName(), names)
}
