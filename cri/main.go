package cri

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/statedir"
)

// Main is the main function of a runtime that has no settings of its own. It serves rt
// until SIGINT or SIGTERM and then exits: 0 after such a signal, 1 after an error,
// which it prints, 2 for bad arguments.
//
//	--endpoint  unix endpoint to serve; by default CONTAINER_RUNTIME_ENDPOINT,
//	            as in crictl, or else unix:///run/NAME.sock
//	--root      state directory; by default STATE_DIRECTORY, which systemd and
//	            nodekit set for the programs that they start (the first of a
//	            colon-separated list), or else /var/lib/NAME
func Main(rt *Runtime) {
	os.Exit(run(rt, os.Args, os.Getenv))
}

func run(rt *Runtime, args []string, getenv func(string) string) int {
	endpoint, root, err := settings(rt.Name, args, getenv)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Serve(ctx, endpoint, rt, &Options{StateDir: root, Logger: log}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(args[0]), err)
		return 1
	}
	return 0
}

// settings reports faulty arguments on standard error.
func settings(name string, args []string, getenv func(string) string) (endpoint, root string, err error) {
	flags := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	endpoint = cmp.Or(getenv("CONTAINER_RUNTIME_ENDPOINT"), "unix:///run/"+name+".sock")
	flags.StringVar(&endpoint, "endpoint", endpoint, "unix endpoint to serve, default from CONTAINER_RUNTIME_ENDPOINT")
	flags.StringVar(&root, "root", statedir.Of(name, getenv), "state directory, default from STATE_DIRECTORY")
	if err := flags.Parse(args[1:]); err != nil {
		return "", "", err
	}
	if flags.NArg() > 0 {
		err = fmt.Errorf("%s: unexpected argument %q", flags.Name(), flags.Arg(0))
		fmt.Fprintln(os.Stderr, err)
	}
	return endpoint, root, err
}
