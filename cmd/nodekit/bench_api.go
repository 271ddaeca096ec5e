package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// apiLoad is the load on the API.
type apiLoad struct{ objects, watches, changes int }

func newBenchAPICommand(f *benchFlags) *cobra.Command {
	load := apiLoad{5000, 500, 200}
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Measure the Kubernetes API under many objects and watches",
		Long: `Bench api fills a node's Kubernetes API with ConfigMaps, opens watches on all of them, and
measures how long a change takes to reach every watch. Watchers and server are one
process, so the memory printed is that of both.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			dir, err := makeRunDir()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, dir.remove()) }()
			n, err := node.Start(cmd.Context(), f.config(dir))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, n.Destroy(context.Background())) }()
			return load.run(cmd, n)
		},
	}
	cmd.Flags().IntVar(&load.objects, "objects", load.objects, "`number` of objects")
	cmd.Flags().IntVar(&load.watches, "watches", load.watches, "`number` of watches on all objects")
	cmd.Flags().IntVar(&load.changes, "changes", load.changes, "`number` of changes to measure")
	return cmd
}

func (l *apiLoad) run(cmd *cobra.Command, n *node.Node) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "an empty API: %s\n", residentMemory())
	took, err := l.fill(cmd.Context(), n)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d objects created in %v (%.0f per second): %s\n", l.objects, took.Round(time.Millisecond), float64(l.objects)/took.Seconds(), residentMemory())
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	w := &watchers{}
	began := time.Now()
	if err := w.open(ctx, n, l); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d watches opened in %v: %s\n", l.watches, time.Since(began).Round(time.Millisecond), residentMemory())
	first, last, err := w.measure(ctx, n, l)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a change until the first watch has it: %s\nand until all %d have it:              %s\n", spread(first), l.watches, spread(last))
	fmt.Fprintf(out, "events missed: %d of %d\n", w.missed(l), l.changes*l.watches)
	return nil
}

func (l *apiLoad) fill(ctx context.Context, n *node.Node) (time.Duration, error) {
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range l.objects {
		group.Go(func() error {
			return n.Client().Create(ctx, &v1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: fmt.Sprintf("object-%d", i)},
				Data:       map[string]string{"text": strings.Repeat("x", 500)},
			})
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// watchers are the clients that watch the API.
type watchers struct {
	seen []atomic.Int64 // changes that each has seen

	mu          sync.Mutex
	first, last time.Time
	count       int
	all         chan struct{} // closed when all have seen the current change
	want        string        // the value of the current change
}

// open starts the watches, from the current state on.
func (w *watchers) open(ctx context.Context, n *node.Node, l *apiLoad) error {
	w.seen = make([]atomic.Int64, l.watches)
	at, err := n.Client().Revision(ctx, &v1.ConfigMap{})
	if err != nil {
		return err
	}
	config := n.RESTConfig()
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	group, _ := errgroup.WithContext(ctx)
	for i := range l.watches {
		group.Go(func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/api/v1/configmaps?watch=true&resourceVersion="+at, nil)
			if err != nil {
				return err
			}
			answer, err := hc.Do(request) //nolint:bodyclose // follow closes it
			if err != nil {
				return err
			}
			go w.follow(i, answer.Body, l.watches)
			return nil
		})
	}
	return group.Wait()
}

// follow reads one watch. It looks only for what changes, because decoding everything
// would measure the watchers.
func (w *watchers) follow(i int, body io.ReadCloser, watches int) {
	defer body.Close()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if _, rest, ok := bytes.Cut(lines.Bytes(), []byte(`"change":"`)); ok {
			value, _, _ := bytes.Cut(rest, []byte(`"`))
			w.told(i, string(value), watches)
		}
	}
}

func (w *watchers) told(i int, value string, watches int) {
	if value == "" {
		return
	}
	w.seen[i].Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if value != w.want {
		return
	}
	w.last = time.Now()
	if w.count == 0 {
		w.first = w.last
	}
	if w.count++; w.count == watches {
		close(w.all)
	}
}

// measure makes one change after another.
func (w *watchers) measure(ctx context.Context, n *node.Node, l *apiLoad) (first, last []time.Duration, err error) {
	for i := range l.changes {
		o := &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: fmt.Sprintf("object-%d", i%l.objects)},
			Data:       map[string]string{"change": strconv.Itoa(i + 1)},
		}
		all := make(chan struct{})
		w.mu.Lock()
		w.all, w.count, w.want = all, 0, strconv.Itoa(i+1)
		w.mu.Unlock()
		began := time.Now()
		if err := n.Client().Update(ctx, o); err != nil {
			return nil, nil, err
		}
		select {
		case <-all:
		case <-time.After(30 * time.Second):
			return nil, nil, fault.Unavailable.Errorf("change %d was not seen by all watches within 30 seconds", i)
		}
		w.mu.Lock()
		first, last = append(first, w.first.Sub(began)), append(last, w.last.Sub(began))
		w.mu.Unlock()
	}
	return first, last, nil
}

func (w *watchers) missed(l *apiLoad) int {
	missed := 0
	for i := range w.seen {
		missed += l.changes - int(w.seen[i].Load())
	}
	return missed
}

// spread shows min, median and max.
func spread(took []time.Duration) string {
	slices.SortFunc(took, cmp.Compare[time.Duration])
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("min %v, median %v, max %v", round(took[0]), round(took[len(took)/2]), round(took[len(took)-1]))
}

// residentMemory returns the resident memory of this process.
func residentMemory() string {
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err.Error()
	}
	fields := strings.Fields(string(data))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d MiB resident", pages*int64(os.Getpagesize())>>20)
}
