package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// closeGrace is how long serve lets requests finish after SIGTERM.
const closeGrace = 5 * time.Second

type serveOptions struct {
	address    string
	port       int
	text       string
	readyAfter time.Duration
	requests   int64
}

// serveFlags parses the flags of both servers, and those that more defines for one.
func serveFlags(args []string, more func(*serveOptions, *flag.FlagSet)) (*serveOptions, error) {
	o := &serveOptions{port: 8080}
	_, err := flags(args, 0, func(fs *flag.FlagSet) {
		fs.StringVar(&o.address, "address", "", "")
		fs.IntVar(&o.port, "port", o.port, "")
		fs.StringVar(&o.text, "text", "", "")
		if more != nil {
			more(o, fs)
		}
	})
	if err != nil || o.text != "" {
		return o, err
	}
	host, err := os.Hostname()
	o.text = "hello from " + host
	return o, err
}

func runServe(t *tool, ctx context.Context, args []string) error {
	o, err := serveFlags(args, func(o *serveOptions, fs *flag.FlagSet) {
		fs.DurationVar(&o.readyAfter, "ready-after", 0, "")
		fs.Int64Var(&o.requests, "requests", 0, "")
	})
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(o.address, strconv.Itoa(o.port)))
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "serving on %s\n", l.Addr())
	return o.serve(ctx, l, t.stdout)
}

// serve answers requests until ctx ends or it has received enough of them; both are
// success.
func (o serveOptions) serve(ctx context.Context, l net.Listener, log io.Writer) error {
	enough, served := context.WithCancel(ctx)
	defer served()
	var count atomic.Int64
	ready := time.Now().Add(o.readyAfter)
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if time.Now().Before(ready) {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		n := count.Add(1)
		fmt.Fprintln(w, o.text)
		fmt.Fprintf(log, "request %d: %s %s\n", n, r.Method, r.URL.Path)
		if n == o.requests {
			served()
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-enough.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("finishing requests: %w", err), srv.Close())
	}
	if ctx.Err() != nil {
		return exitCode(0) // no step comes after SIGTERM
	}
	return nil
}

func runServeUDP(t *tool, ctx context.Context, args []string) error {
	o, err := serveFlags(args, nil)
	if err != nil {
		return err
	}
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", net.JoinHostPort(o.address, strconv.Itoa(o.port)))
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "serving on %s\n", c.LocalAddr())
	return o.serveUDP(ctx, c)
}

// serveUDP answers packets until ctx ends, which is success, as it is for serve.
func (o serveOptions) serveUDP(ctx context.Context, c net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	for buf := make([]byte, 1); ; {
		_, from, err := c.ReadFrom(buf) // what is longer is cut off
		if err == nil {
			// The one who asked may be gone; the next one need not be.
			_, _ = c.WriteTo([]byte(o.text+"\n"), from)
			continue
		}
		if ctx.Err() != nil {
			return exitCode(0) // no step comes after SIGTERM
		}
		return err
	}
}

type getOptions struct {
	count           int
	retry, interval time.Duration
}

func runGet(t *tool, ctx context.Context, args []string) error {
	o := getOptions{count: 1}
	args, err := flags(args, 1, func(fs *flag.FlagSet) {
		fs.IntVar(&o.count, "count", o.count, "")
		fs.DurationVar(&o.retry, "retry", 0, "")
		fs.DurationVar(&o.interval, "interval", 0, "")
	})
	if err != nil {
		return err
	}
	url := args[0]
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	for i := range o.count {
		if i > 0 {
			if err := wait(ctx, o.interval); err != nil {
				return err
			}
		}
		body, err := o.getOnce(ctx, url)
		if err != nil {
			return err
		}
		if _, err := t.stdout.Write(body); err != nil {
			return err
		}
	}
	return nil
}

// getOnce requests url until it answers with success or the time for retries
// is over.
func (o getOptions) getOnce(ctx context.Context, url string) ([]byte, error) {
	for deadline := time.Now().Add(o.retry); ; {
		body, err := fetch(ctx, url)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, context.Canceled
		}
		if !time.Now().Before(deadline) {
			return nil, err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	req.Close = true // each request shows that the server takes new connections
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s answered %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}
