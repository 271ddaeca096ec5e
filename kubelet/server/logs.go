package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// containerLogs serves the log of one container instance: the newest or, with
// previous=true, the one before. The other parameters are those of v1.PodLogOptions.
func (s *server) containerLogs(w http.ResponseWriter, r *http.Request) {
	p := s.config.Pod(r.Context(), r.PathValue("namespace"), r.PathValue("pod"))
	container := r.PathValue("container")
	if p == nil || pod.Find(p, container) == nil {
		http.Error(w, fmt.Sprintf("Pod %q has no container %q here", r.PathValue("namespace")+"/"+r.PathValue("pod"), container), http.StatusNotFound)
		return
	}
	query := r.URL.Query()
	options, err := readOptions(query)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	attempt, err := s.attempt(p, container, query.Get("previous") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if options.Follow {
		options.Ended = s.config.Ended(r.Context(), p.UID, container, attempt)
	}
	out, err := limited(w, query)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	path := filepath.Join(s.config.LogDir, pod.LogDirectory(p), pod.LogPath(container, attempt))
	if err := log.Read(r.Context(), path, out, out, options); err != nil && !errors.Is(err, errEnough) {
		s.config.Logger.Debug("reading a log", "path", path, "err", err)
	}
}

// attempt returns the newest instance that has a log, or the one before.
func (s *server) attempt(p *v1.Pod, container string, previous bool) (uint32, error) {
	entries, err := os.ReadDir(filepath.Join(s.config.LogDir, pod.LogDirectory(p), container))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	newest := int64(-1)
	for _, e := range entries {
		if number, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			if n, err := strconv.ParseInt(number, 10, 32); err == nil {
				newest = max(newest, n)
			}
		}
	}
	if previous {
		newest--
	}
	if newest < 0 {
		return 0, fault.NotFound.Errorf("container %q of Pod %q has no such log: it is waiting to start, or never ran before", container, p.Name)
	}
	return uint32(newest), nil
}

func readOptions(query url.Values) (*log.ReadOptions, error) {
	o := &log.ReadOptions{Follow: query.Get("follow") == "true", Timestamps: query.Get("timestamps") == "true"}
	if text := query.Get("tailLines"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fault.Invalid.Errorf("tailLines %q is not a number of lines", text)
		}
		o.Tail = &n
	}
	if text := query.Get("sinceSeconds"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fault.Invalid.Errorf("sinceSeconds %q is not a number of seconds", text)
		}
		o.Since = time.Now().Add(-time.Duration(n) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, fault.Invalid.Errorf("sinceTime %q is not a time in RFC 3339", text)
		}
		o.Since = at
	}
	return o, nil
}

var errEnough = errors.New("the limit is reached")

// limited returns a writer that flushes at once, so that a client that follows sees
// each line, and stops at limitBytes.
func limited(w http.ResponseWriter, query url.Values) (io.Writer, error) {
	out := &flusher{w: w, control: http.NewResponseController(w), left: -1}
	if text := query.Get("limitBytes"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return nil, fault.Invalid.Errorf("limitBytes %q is not a number of bytes", text)
		}
		out.left = n
	}
	return out, nil
}

type flusher struct {
	w       io.Writer
	control *http.ResponseController
	left    int64 // negative for no limit
}

func (f *flusher) Write(b []byte) (int, error) {
	enough := f.left >= 0 && int64(len(b)) >= f.left
	if enough {
		b = b[:f.left]
	}
	n, err := f.w.Write(b)
	if f.left >= 0 {
		f.left -= int64(n)
	}
	if err == nil {
		err = f.control.Flush()
	}
	if err == nil && enough {
		err = errEnough
	}
	return n, err
}
