package deviceplugin

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Main is the main function of a program that is one device plugin:
//
//	func main() { deviceplugin.Main(&deviceplugin.Plugin{...}) }
//
// It reads the flags --kubelet-dir (default /var/lib/kubelet) and --verbose,
// logs to stderr, serves until SIGINT or SIGTERM, and exits with 0 then, with 1
// after an error and with 2 for wrong flags. A program that wants it otherwise
// calls Serve.
func Main(p *Plugin) {
	flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	dir := flags.String("kubelet-dir", DefaultKubeletDir, "the kubelet's root `directory`")
	verbose := flags.Bool("verbose", false, "log every call")
	_ = flags.Parse(os.Args[1:]) // ExitOnError: it does not return one

	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := Serve(ctx, p, &Options{KubeletDir: *dir, Logger: log})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "device plugin %q: %v\n", p.Resource, err)
		os.Exit(1)
	}
}
