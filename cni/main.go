package cni

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/internal/oneshot"
	"github.com/nodekit-project/nodekit/internal/termination"
)

// Main serves the plugins as this executable and does not return. If there are several,
// the name by which the executable was called selects one; a single plugin is served
// under any name. Delegates that CNI_PATH resolves to this same executable are called
// in process.
//
// SIGTERM and SIGINT cancel the context of the handler and its delegates, and so cause
// the rollback of an ADD; the end of the plugin's Timeout does the same. The rollback
// does not wait longer than three seconds for the handler to return, and is itself
// abandoned if it outlasts its own ten seconds. The runtime gets code 11. Until the
// configuration has been read there is nothing to undo, and a signal ends the process;
// so it does for VERSION. Both signals belong to Main: a plugin that calls signal.Notify
// for one of them disables this.
//
// What handlers print to os.Stdout goes to stderr, because stdout carries the protocol.
func Main(plugins ...*Plugin) {
	stdout := os.Stdout
	os.Stdout = os.Stderr
	if err := oneshot.Hide(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(serve(process{os.Args[0], environ(), os.Stdin, stdout, os.Stderr}, plugins))
}

// process is what Main uses of the operating system's process.
type process struct {
	name           string
	env            map[string]string
	stdin          io.Reader
	stdout, stderr io.Writer
}

func serve(proc process, plugins []*Plugin) (code int) {
	p, command := choose(proc.name, plugins), proc.env["CNI_COMMAND"]
	if p == nil || command == "" {
		fmt.Fprintf(proc.stderr, "This is a CNI plugin, which a container runtime executes with CNI_COMMAND set.\nIt serves CNI %s under the names: %s.\n",
			strings.Join(Versions(), ", "), strings.Join(names(plugins), ", "))
	}
	if p == nil {
		err := Errorf(CodeConfig, "no plugin is called %q, the name of this executable: rename it to one of %q", filepath.Base(proc.name), names(plugins))
		stdout, _ := fail(object(err, command, ""))
		_, _ = proc.stdout.Write(stdout) // it fails in any case
		return 1
	}
	c := &invocation{
		plugin: p, peers: peersOfExecutable(plugins), lastCall: true,
		output: output{slog.New(slog.NewTextHandler(proc.stderr, nil)), proc.stderr},
	}
	var stdin, stdout []byte
	var err error
	if command != "" { // without it, do not wait for stdin: it may be a terminal
		stdin, err = io.ReadAll(proc.stdin)
	}
	ctx := context.Background()
	if command != CmdVersion {
		ctx = termination.Context() // before a handler has anything to undo
	}
	if err != nil {
		stdout, err = fail(object(Errorf(CodeIO, "reading network configuration: %w", err), command, ""))
	} else {
		stdout, err = c.run(ctx, proc.env, stdin)
	}
	if _, werr := proc.stdout.Write(stdout); err != nil || werr != nil {
		return 1
	}
	return 0
}

// choose returns the plugin that argv[0] names; a single plugin is served under any
// name.
func choose(name string, plugins []*Plugin) *Plugin {
	if len(plugins) == 1 {
		return plugins[0]
	}
	base := filepath.Base(name)
	for _, p := range plugins {
		if p.Name == base {
			return p
		}
	}
	return nil
}

func names(plugins []*Plugin) []string {
	out := make([]string, len(plugins))
	for i, p := range plugins {
		out[i] = p.Name
	}
	return out
}

// peersOfExecutable resolves delegates by CNI_PATH alone; it only avoids executing
// this executable again if that is what CNI_PATH leads to.
func peersOfExecutable(plugins []*Plugin) peers {
	return func(name string, path []string) (*Plugin, string) {
		file, err := Find(name, path)
		if err != nil {
			return nil, ""
		}
		if p := choose(name, plugins); p != nil && len(plugins) > 1 && isSelf(file) {
			return p, file
		}
		return nil, file
	}
}

func isSelf(file string) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	a, aerr := os.Stat(self)
	b, berr := os.Stat(file)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

func environ() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
	}
	return env
}
