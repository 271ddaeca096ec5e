package main

import (
	"cmp"
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
	// cobra checks these afterwards, and does not print the usage.
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return usedWrongly(cmd, cmp.Or(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()))
	}
	for _, c := range cmd.Commands() {
		explain(c)
	}
}

// noArgs rejects arguments of a command that takes none.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// oneArg requires one argument, which the usage calls what.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("unexpected argument %q: want one %s", args[1], what)
		}
		return someArgs(what)(cmd, args)
	}
}

// someArgs requires one argument or more.
func someArgs(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s is missing", what)
		}
		return nil
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
		return fmt.Errorf("%w: the commands are %s", err, strings.Join(names, ", "))
	}
	return fmt.Errorf("%w%s\nusage: %s\n%s --help says more", inWords(err), flagMeant(cmd, err), cmd.UseLine(), cmd.CommandPath())
}

// inWords returns the error about a flag's value without Go's words for it.
func inWords(err error) error {
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	reason := wrong.Unwrap()
	switch kind := wrong.GetFlag().Value.Type(); kind {
	case "int", "uint64":
		reason = errors.New("want a whole number")
	case "bool":
		reason = errors.New("want true or false")
	case "duration":
		reason = errors.New("want a duration, such as 90s or 2m")
	}
	return fmt.Errorf("--%s %q: %w", wrong.GetFlag().Name, wrong.GetValue(), reason)
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
