package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestPrintObjects(t *testing.T) {
	type row struct {
		Name string `json:"name"`
		Size int    `json:"size"`
	}
	rows := []row{{"long-name", 1}, {"b", 2}}
	columns := []column[row]{
		{title: "NAME", value: func(r row) string { return r.Name }},
		{title: "DETAIL", wide: true, value: func(row) string { return "x" }},
		{title: "SIZE", value: func(r row) string { return size(uint64(r.Size)) }},
	}
	for _, c := range []struct {
		format string
		rows   []row
		want   string
	}{
		{"", rows, "NAME        SIZE\nlong-name   1B\nb           2B\n"},
		{"wide", rows, "NAME        DETAIL   SIZE\nlong-name   x        1B\nb           x        2B\n"},
		{"name", rows, "long-name\nb\n"},
		{"yaml", rows, "items:\n- name: long-name\n  size: 1\n- name: b\n  size: 2\n"},
		{"json", nil, "{\n    \"items\": []\n}\n"},
		{"", nil, "NAME   SIZE\n"},
	} {
		var out bytes.Buffer
		err := printObjects(&out, &outputFormat{value: c.format}, c.rows, columns, func(r row) string { return r.Name })
		if err != nil || out.String() != c.want {
			t.Errorf("format %q: %q, %v; want %q", c.format, out.String(), err, c.want)
		}
	}
}

func TestOutputFlag(t *testing.T) {
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, Run: func(*cobra.Command, []string) {}}
	format := addOutputFlag(cmd, "wide", "json")
	cmd.SetArgs([]string{"-o", "json"})
	if err := cmd.Execute(); err != nil || format.value != "json" {
		t.Errorf("-o json: %q, %v", format.value, err)
	}
	cmd.SetArgs([]string{"-o", "xml"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "want wide, json") {
		t.Errorf("-o xml: %v; want an error that lists the formats", err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 999: "999B", 1000: "1kB", 6_400_000: "6.4MB", 999_400: "999kB", 999_600: "1MB", 1_234_567_890: "1.23GB", 5e15: "5e+03TB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
