package image_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// busy answers the first so many requests for each of the kinds with code.
func busy(code int, after string, times int32, kinds ...string) (serve func(http.ResponseWriter, *http.Request) bool, asked *atomic.Int32) {
	asked = &atomic.Int32{}
	counts := make([]atomic.Int32, len(kinds))
	return func(w http.ResponseWriter, r *http.Request) bool {
		for i, kind := range kinds {
			if !strings.Contains(r.URL.Path, kind) || r.Method != http.MethodGet {
				continue
			}
			asked.Add(1)
			if counts[i].Add(1) > times {
				continue
			}
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(code)
			return true
		}
		return false
	}, asked
}

// TestPullFromBusy: a registry that says that it has too much to do is asked again,
// when it says.
func TestPullFromBusy(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		for _, after := range []string{"", "1", "nonsense", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)} {
			for _, kind := range []string{"/v2/", "/manifests/", "/blobs/"} {
				t.Run(fmt.Sprint(code, after, kind), func(t *testing.T) {
					t.Parallel()
					r := newRegistryBeside(t, r)
					serve, _ := busy(code, after, 2, kind)
					r.on(serve)
					if _, err := open(t, t.TempDir(), nil).Pull(t.Context(), r.host+ref[strings.IndexByte(ref, '/'):], nil); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestPullGivesUpOnBusy: it waits not for ever, and not at all where the registry wants to
// be left alone for long. Who gives up meanwhile is not kept.
func TestPullGivesUpOnBusy(t *testing.T) {
	t.Parallel() // it waits
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	for name, c := range map[string]struct {
		after string
		asked int32
	}{
		"config":           {"0", 5},
		"always":           {"0", 5},
		"for an hour":      {"3600", 1},
		"until next year":  {time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat), 1},
		"until a time":     {fmt.Sprint(time.Now().Add(time.Minute).Unix()), 1},
		"longer than time": {strings.Repeat("9", 30), 1},
	} {
		t.Run(name, func(t *testing.T) {
			kind := "/manifests/"
			if name == "config" {
				kind = "/blobs/"
			}
			serve, asked := busy(http.StatusTooManyRequests, c.after, 1000, kind)
			r.on(serve)
			_, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, nil)
			if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "cannot serve it now") {
				t.Errorf("Pull: %v; want fault.Unavailable that says why", err)
			}
			if asked.Load() != c.asked {
				t.Errorf("it was asked %d times, want %d", asked.Load(), c.asked)
			}
		})
	}
	serve, asked := busy(http.StatusTooManyRequests, "30", 1000, "/manifests/")
	ctx, cancel := context.WithCancel(t.Context())
	r.on(func(w http.ResponseWriter, r *http.Request) bool {
		defer func() {
			if asked.Load() == 1 {
				cancel()
			}
		}()
		return serve(w, r)
	})
	s := open(t, t.TempDir(), nil)
	if _, err := s.Pull(ctx, ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the pull that was given up: %v; want context.Canceled", err)
	}
	r.on(func(http.ResponseWriter, *http.Request) bool { return false })
	if _, err := s.Pull(t.Context(), ref, nil); err != nil {
		t.Errorf("the next pull: %v", err)
	}
}

// TestPullFromBusyMirror: while another place serves, nobody waits for one that is
// busy; and where none does, for that alone which is.
func TestPullFromBusyMirror(t *testing.T) {
	t.Parallel() // it waits
	origin, mirror := newRegistry(t), newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")))
	ref := origin.push(t, "app:v1", im)
	mirror.push(t, "app:v1", im)
	opts := func(registry string) *image.Options {
		return hostsFile(t, registry, fmt.Sprintf("[host.\"http://%s\"]\n", mirror.host))
	}
	serve, asked := busy(http.StatusTooManyRequests, "30", 1000, "/manifests/", "/blobs/")
	mirror.on(serve)
	if _, err := open(t, t.TempDir(), opts(origin.host)).Pull(t.Context(), ref, nil); err != nil || asked.Load() != 1 {
		t.Errorf("Pull: %v, and the mirror was asked %d times, want once", err, asked.Load())
	}
	serve, _ = busy(http.StatusServiceUnavailable, "1", 1, "/manifests/", "/blobs/")
	mirror.on(serve)
	if _, err := open(t, t.TempDir(), opts("registry.invalid")).Pull(t.Context(), "registry.invalid/app:v1", nil); err != nil {
		t.Errorf("from a busy mirror alone: %v", err)
	}
	// The mirror has the layers when the registry has too much to do; once it could not be reached.
	serve, _ = busy(http.StatusBadGateway, "", 3, "/manifests/")
	mirror.on(serve)
	serve, _ = busy(http.StatusTooManyRequests, "1", 1000, "/blobs/")
	origin.on(serve)
	if _, err := open(t, t.TempDir(), opts(origin.host)).Pull(t.Context(), ref, nil); err != nil {
		t.Errorf("from a mirror that was out of reach once: %v", err)
	}
	serve, asked = busy(http.StatusTooManyRequests, "", 1000, "/manifests/")
	mirror.on(serve)
	if _, err := open(t, t.TempDir(), opts(origin.host)).Pull(t.Context(), origin.host+"/none:v1", nil); !errors.Is(err, fault.NotFound) || asked.Load() != 1 {
		t.Errorf("an image that the registry does not have: %v, and the mirror was asked %d times; want fault.NotFound at once", err, asked.Load())
	}
}
