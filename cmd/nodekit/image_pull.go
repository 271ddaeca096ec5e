package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cri/oci/image"
)

func newImagePullCommand(root *string) *cobra.Command {
	var plainHTTP bool
	var hosts string
	cmd := &cobra.Command{
		Use:   "pull IMAGE",
		Short: "Pull an image from its registry",
		Long: `Credentials are read from docker's configuration, which "docker login" writes:
~/.docker/config.json, or $DOCKER_CONFIG/config.json. The next pull resumes one that was
interrupted.`,
		Args: oneArg("IMAGE"),
	}
	cmd.Flags().BoolVar(&plainHTTP, "plain-http", false, "allow a registry that does not use TLS")
	addHostsDir(cmd, &hosts)
	format := addOutputFlag(cmd, "name", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := hostsDir(hosts)
		if err != nil {
			return err
		}
		s, err := openImagesAt(cmd, *root, dir)
		if err != nil {
			return err
		}
		p := newPullProgress(cmd.ErrOrStderr())
		id, err := s.Pull(cmd.Context(), args[0], &image.PullOptions{PlainHTTP: plainHTTP, Progress: p.update})
		p.finish()
		if err != nil {
			return err
		}
		if format.value == "" {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s pulled, id %s\n", args[0], shortID(id))
			return err
		}
		return report(cmd, s, format, "pulled", []string{id})
	}
	return cmd
}

// pullProgress shows the progress of a pull: on a terminal one line that changes,
// elsewhere a line for each finished layer. It is used by one goroutine at a time.
type pullProgress struct {
	w        io.Writer
	terminal bool
	layers   map[string]image.Progress
	shown    time.Time
}

func newPullProgress(w io.Writer) *pullProgress {
	p := &pullProgress{w: w, layers: map[string]image.Progress{}}
	if f, ok := w.(*os.File); ok {
		fi, err := f.Stat()
		p.terminal = err == nil && fi.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// redraw is the minimum interval between changes of the line on a terminal.
const redraw = 100 * time.Millisecond

func (p *pullProgress) update(at image.Progress) {
	p.layers[at.Layer] = at
	if !p.terminal {
		if at.Done == at.Total {
			fmt.Fprintf(p.w, "layer %s: %s\n", shortID(at.Layer), size(uint64(at.Total)))
		}
		return
	}
	if time.Since(p.shown) < redraw {
		return
	}
	p.shown = time.Now()
	var done, total int64
	complete := 0
	for _, l := range p.layers {
		done, total = done+l.Done, total+l.Total
		if l.Done == l.Total {
			complete++
		}
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s of %s, %d of %d layers", size(uint64(done)), size(uint64(total)), complete, len(p.layers))
}

// finish removes the line; the output that follows has its own.
func (p *pullProgress) finish() {
	if p.terminal && !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
