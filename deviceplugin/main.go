package deviceplugin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Main is the main function of a program that consists of one device plugin:
//
//	func main() { deviceplugin.Main(&deviceplugin.Plugin{...}) }
//
// It reads the flags --kubelet-dir (default /var/lib/kubelet) and --verbose, logs to
// stderr, and serves until SIGINT or SIGTERM. It exits with 0 after a signal, 1 after
// an error, and 2 for invalid flags. A program with other needs calls Serve.
func Main(p *Plugin) {
	os.Exit(run(p, os.Args))
}

func run(p *Plugin, args []string) (exitCode int) {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	dir := flags.String("kubelet-dir", DefaultKubeletDir, "the kubelet's root `directory`")
	verbose := flags.Bool("verbose", false, "log every call")
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "device plugin %q: unexpected argument %q: flags alone are read\n", p.Resource, flags.Arg(0))
		return 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := Serve(ctx, p, &Options{KubeletDir: *dir, Logger: log}); err != nil {
		fmt.Fprintf(os.Stderr, "device plugin %q: %v\n", p.Resource, err)
		return 1
	}
	return 0
}
