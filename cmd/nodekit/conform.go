package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/scratch"
)

func newConformCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "conform",
		Short: "Test a plugin against its specification",
		Long: `Conform runs a conformance suite against a plugin, in any language, and prints which
sentence of the specification it violates. The exit code is 1 if a MUST rule failed.`,
	}
	cmd.AddCommand(newConformCNICommand(), newConformCSICommand(), newConformDeviceCommand(), newConformCRICommand(),
		newConformCNIRuntimeCommand(), newConformCRIClientCommand(), newConformRulesCommand())
	return cmd
}

// conformFlags are the flags of every suite.
type conformFlags struct {
	verbosity
	tier     string
	rules    []string
	strict   bool
	parallel int
	timeout  time.Duration
	seed     uint64
	profile  string
	output   string
	reports  []string
}

func (f *conformFlags) addTo(cmd *cobra.Command) {
	f.verbosity.addTo(cmd)
	fs := cmd.Flags()
	fs.Lookup("verbose").Usage = "log in detail; the CNI and CSI suites log every call"
	fs.StringVar(&f.tier, "tier", "crash", "last `tier` of rules to run: quick, crash (kills the plugin) or soak")
	fs.StringSliceVar(&f.rules, "rule", nil, "run only these `rules`, by id or pattern (CNI-DEL-*)")
	fs.BoolVar(&f.strict, "strict", false, "also fail if a SHOULD rule is not met")
	fs.IntVar(&f.parallel, "parallel", 0, "`number` of rules to run at a time, if the suite and the plugin allow it; 0 lets the suite choose")
	fs.DurationVar(&f.timeout, "timeout", 0, "`time` that one rule may take; 0 means 30s for a quick rule and 2m for one that kills")
	fs.Uint64Var(&f.seed, "seed", 0, "repeat the random choices of an earlier run")
	fs.StringVar(&f.profile, "profile", "", "YAML `file` in which the plugin's author declares facts and waivers")
	fs.StringVarP(&f.output, "output", "o", "text", "output `format`: text, json, junit or html")
	fs.StringArrayVar(&f.reports, "report", nil, "also write a report to this `file`: .json, .xml (JUnit), .html or .txt")
}

func (f *conformFlags) options(cmd *cobra.Command, args []string) (*conformance.Options, error) {
	tier, err := conformance.ParseTier(f.tier)
	if err := errors.Join(err, f.checkFormats(), f.checkValues(cmd)); err != nil {
		return nil, err
	}
	o := &conformance.Options{
		Tier: tier, Only: f.rules, Seed: f.seed, Strict: f.strict, Parallel: f.parallel, Timeout: f.timeout,
		Command: f.command(cmd, args),
		Logger:  f.logger(slog.LevelError),
	}
	if f.output == "text" {
		o.Progress = cmd.OutOrStdout()
	}
	o.Profile, err = f.loadProfile()
	return o, err
}

// loadProfile returns nil if there is no profile.
func (f *conformFlags) loadProfile() (*conformance.Profile, error) {
	if f.profile == "" {
		return nil, nil
	}
	return conformance.LoadProfile(f.profile)
}

// command returns the command line that repeats this run, for people to copy.
func (f *conformFlags) command(cmd *cobra.Command, args []string) string {
	words := []string{cmd.CommandPath()}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		switch {
		case slices.Contains([]string{"rule", "seed", "tier", "strict", "parallel", "output", "report", "verbose"}, flag.Name):
		case flag.Value.Type() == "bool":
			words = append(words, "--"+flag.Name+"="+flag.Value.String())
		default:
			words = append(words, "--"+flag.Name, shellQuote(flag.Value.String()))
		}
	})
	for _, a := range args {
		words = append(words, shellQuote(a))
	}
	return strings.Join(words, " ")
}

// shellQuote returns s as one word of a POSIX shell.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// conform runs a suite against a target and reports as the flags say.
func conform[T any](cmd *cobra.Command, args []string, f *conformFlags, s *conformance.Suite[T], target T) error {
	opts, err := f.options(cmd, args)
	if err != nil {
		return err
	}
	sweepConform(cmd)
	report, err := s.Run(cmd.Context(), target, opts)
	if report == nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), report); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if report.Failed() {
		return exitCode(1)
	}
	return nil
}

// sweepConform takes down what killed runs have left. What it cannot take down does not
// prevent a run.
func sweepConform(cmd *cobra.Command) {
	err := scratch.Sweep(func(path string) {
		fmt.Fprintf(cmd.ErrOrStderr(), "taking down what a killed run left in %s\n", path)
	})
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "not everything could be taken down:", err)
	}
}

func (f *conformFlags) print(stdout io.Writer, report *conformance.Report) error {
	if err := writeReport(stdout, f.output, report); err != nil {
		return err
	}
	for _, path := range f.reports {
		if err := writeReportFile(path, report); err != nil {
			return err
		}
	}
	return nil
}

// checkFormats finds, before the run, a report that could not be written.
func (f *conformFlags) checkFormats() error {
	errs := []error{checkFormat(f.output)}
	for _, path := range f.reports {
		_, err := formatOf(path)
		errs = append(errs, err, checkReport(path))
	}
	return errors.Join(errs...)
}

// checkReport returns the reason why no file can be written at path.
func checkReport(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return fault.Invalid.Errorf("--report %q: it is a directory: name a file", path)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || !fi.IsDir() {
		return fault.Invalid.Errorf("--report %q: there is no directory %q: make it first", path, filepath.Dir(path))
	}
	return nil
}

// checkValues rejects values that would be treated as not set.
func (f *conformFlags) checkValues(cmd *cobra.Command) error {
	switch {
	case f.parallel < 0:
		return fault.Invalid.Errorf("--parallel %d: want the number of rules to run at a time, or 0", f.parallel)
	case f.timeout < 0:
		return fault.Invalid.Errorf("--timeout %v: want a positive duration, such as 90s, or 0", f.timeout)
	case cmd.Flags().Changed("rule") && len(f.rules) == 0:
		return fault.Invalid.Errorf("--rule is empty: name a rule or a pattern, or leave the flag out to run all")
	}
	return nil
}

func checkFormat(format string) error {
	switch format {
	case "text", "json", "junit", "html":
		return nil
	}
	return fault.Invalid.Errorf("--output %q: want text, json, junit or html", format)
}

func formatOf(path string) (string, error) {
	format, known := map[string]string{".json": "json", ".xml": "junit", ".html": "html", ".txt": "text"}[filepath.Ext(path)]
	if !known {
		return "", fault.Invalid.Errorf("--report %q: want a name that ends in .json, .xml, .html or .txt", path)
	}
	return format, nil
}

func writeReportFile(path string, report *conformance.Report) error {
	format, err := formatOf(path)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := writeReport(file, format, report); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func writeReport(w io.Writer, format string, report *conformance.Report) error {
	switch format {
	case "json":
		return report.WriteJSON(w)
	case "junit":
		return report.WriteJUnit(w)
	case "html":
		return report.WriteHTML(w)
	}
	return report.WriteText(w)
}
