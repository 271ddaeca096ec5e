package csi

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/statedir"
)

// Main serves the driver as a program, and exits: with 0 after SIGTERM or an interrupt,
// with 1 and one line on stderr if it cannot serve, with 2 for invalid flags.
//
//	CSI_ENDPOINT          the socket, as the specification says; --endpoint overrides it
//	KUBELET_REGISTRATION  a kubelet's plugins_registry directory; --registry overrides
//	                      it; if neither is set, the driver does not register itself
//	NODE_ID               the node's id; --node-id overrides it; the defaults are
//	                      Driver.NodeID, then the host name
//	--verbose             logs every call on stderr
//
// An empty Driver.StateDir becomes StateDir(d.Name).
func Main(d *Driver) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, d, os.Args[1:]))
}

// StateDir returns the directory in which a program with this driver keeps what must
// survive a restart: STATE_DIRECTORY, which systemd and nodekit set for the programs
// that they start (the first entry, if it is a colon-separated list), or
// /var/lib/<name>.
func StateDir(name string) string {
	return statedir.Of(name, os.Getenv)
}

func run(ctx context.Context, d *Driver, args []string) (exitCode int) {
	host, _ := os.Hostname() // "" is reported by Validate
	flags := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	endpoint := flags.String("endpoint", os.Getenv("CSI_ENDPOINT"), "`socket` to serve on, unix:///absolute/path.sock (CSI_ENDPOINT)")
	registry := flags.String("registry", os.Getenv("KUBELET_REGISTRATION"), "`directory` plugins_registry of a kubelet to register with (KUBELET_REGISTRATION)")
	nodeID := flags.String("node-id", cmp.Or(os.Getenv("NODE_ID"), d.NodeID, host), "`id` of this node (NODE_ID)")
	verbose := flags.Bool("verbose", false, "log every call")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q: flags alone are read\n", flags.Arg(0))
		return 2
	}
	if *endpoint == "" {
		fmt.Fprintln(os.Stderr, "no socket to serve on: set CSI_ENDPOINT, for example CSI_ENDPOINT=unix:///run/csi.sock")
		return 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	served := *d
	served.NodeID, served.StateDir = *nodeID, cmp.Or(d.StateDir, StateDir(d.Name))
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := Serve(ctx, *endpoint, &served, &Options{Registry: *registry, Logger: log}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
