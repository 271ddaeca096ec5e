package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// How commands print objects, after kubectl: a table by default and with
// "-o wide", "-o name" one name a line, "-o json" and "-o yaml" everything.
//
//	f := addOutputFlag(cmd, "wide", "name", "json", "yaml") // -o, completed and checked
//	...
//	return printObjects(cmd.OutOrStdout(), *f, rows, columns, rowName)
//
// A command that prints one document, not a list, uses printDocument.

// column is one column of a table of T.
type column[T any] struct {
	title string
	wide  bool // only shown with -o wide
	value func(T) string
}

// outputFormat is the value of -o: empty, or one of those the command takes.
type outputFormat struct {
	value   string
	allowed []string
}

func (o *outputFormat) String() string { return o.value }

// Type is shown behind the flag in the help text.
func (o *outputFormat) Type() string { return "format" }

// Set rejects unsupported formats, before the command does anything.
func (o *outputFormat) Set(v string) error {
	if !slices.Contains(o.allowed, v) {
		return fmt.Errorf("want %s", strings.Join(o.allowed, ", "))
	}
	o.value = v
	return nil
}

// addOutputFlag adds the flag -o with the supported formats to cmd. The format may be
// read once the command runs.
func addOutputFlag(cmd *cobra.Command, formats ...string) *outputFormat {
	o := &outputFormat{allowed: formats}
	cmd.Flags().VarP(o, "output", "o", "output format: "+strings.Join(formats, ", "))
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return formats, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // only if the flag, added above, did not exist
	}
	return o
}

// printObjects prints rows in the format: as a table (empty and "wide"), the
// name of each ("name"), or a document {"items": [...]} of the rows themselves.
func printObjects[T any](w io.Writer, o *outputFormat, rows []T, columns []column[T], name func(T) string) error {
	switch o.value {
	case "", "wide":
		return printTable(w, rows, slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool {
			return c.wide && o.value != "wide"
		}))
	case "name":
		for _, r := range rows {
			if _, err := fmt.Fprintln(w, name(r)); err != nil {
				return err
			}
		}
		return nil
	}
	if rows == nil {
		rows = []T{} // an empty list, not null
	}
	return printDocument(w, o.value, map[string][]T{"items": rows})
}

// printDocument prints v as json or yaml, with the names of its json tags.
func printDocument(w io.Writer, format string, v any) error {
	var out []byte
	var err error
	switch format {
	case "json":
		out, err = json.MarshalIndent(v, "", "    ")
		out = append(out, '\n')
	case "yaml":
		out, err = yaml.Marshal(v)
	default:
		return fmt.Errorf("output format %q: want json or yaml", format)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

func printTable[T any](w io.Writer, rows []T, columns []column[T]) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	line := func(cell func(column[T]) string) {
		for i, c := range columns {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell(c))
		}
		fmt.Fprintln(t)
	}
	line(func(c column[T]) string { return c.title })
	for _, r := range rows {
		line(func(c column[T]) string { return c.value(r) })
	}
	return t.Flush()
}

// size formats bytes as people read them: 999B, 6.4MB.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n)/1000, 0
	for value >= 999.5 && unit < 3 {
		value /= 1000
		unit++
	}
	return fmt.Sprintf("%.3g%cB", value, "kMGT"[unit])
}
