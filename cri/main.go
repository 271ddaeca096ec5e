package cri

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Main is the main function of a runtime that has no settings of its own. It
// serves rt until SIGINT or SIGTERM and then exits: 0 after such a signal, 1
// after an error, which it prints, 2 for bad arguments.
//
//	--endpoint  unix endpoint to serve; by default CONTAINER_RUNTIME_ENDPOINT,
//	            as in crictl, or else unix:///run/NAME.sock
//	--root      state directory, by default /var/lib/NAME
func Main(rt *Runtime) {
	os.Exit(run(rt, os.Args, os.Getenv))
}

func run(rt *Runtime, args []string, getenv func(string) string) int {
	flags := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	endpoint := getenv("CONTAINER_RUNTIME_ENDPOINT")
	if endpoint == "" {
		endpoint = "unix:///run/" + rt.Name + ".sock"
	}
	flags.StringVar(&endpoint, "endpoint", endpoint, "unix endpoint to serve, default from CONTAINER_RUNTIME_ENDPOINT")
	root := flags.String("root", filepath.Join("/var/lib", rt.Name), "state directory")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "%s: unexpected argument %q\n", flags.Name(), flags.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Serve(ctx, endpoint, rt, &Options{StateDir: *root, Logger: log}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flags.Name(), err)
		return 1
	}
	return 0
}
