package image_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// flaky is a registry that hands out one layer in ways that a test chooses.
type flaky struct {
	*testRegistry
	ref    string
	layer  string // the hex of its digest
	body   []byte
	mu     sync.Mutex
	ranges []string // the Range of each request for the layer
}

// noise is a file that does not compress.
func noise(t testing.TB, size int) entry {
	t.Helper()
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return file("noise", string(b))
}

func newFlaky(t testing.TB) *flaky {
	t.Helper()
	f := &flaky{testRegistry: newRegistry(t)}
	l := layerOf(t, noise(t, 1<<20))
	f.ref = f.push(t, "app:v1", imageOf(t, l))
	digest, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f.layer = digest.Hex
	rec := httptest.NewRecorder()
	f.inner.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v2/app/blobs/sha256:"+f.layer, nil))
	f.body = rec.Body.Bytes()
	return f
}

// serveLayer answers requests for the layer, the first being number 0.
func (f *flaky) serveLayer(answer func(w http.ResponseWriter, r *http.Request, number int)) {
	n := 0
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, f.layer) {
			return false
		}
		f.mu.Lock()
		f.ranges = append(f.ranges, r.Header.Get("Range"))
		number := n
		n++
		f.mu.Unlock()
		answer(w, r, number)
		return true
	})
}

func (f *flaky) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ranges
}

// part serves body as a server that knows ranges, and cuts the connection after
// the given number of bytes.
func part(w http.ResponseWriter, r *http.Request, body []byte, cut int) {
	from := 0
	if v := r.Header.Get("Range"); v != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	rest := body[from:]
	if len(rest) <= cut {
		_, _ = w.Write(rest)
		return
	}
	_, _ = w.Write(rest[:cut])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// unannounced serves body without saying how long it is, and ends in good order after
// the given number of bytes, as a proxy does that lost the server behind it.
func unannounced(w http.ResponseWriter, r *http.Request, body []byte, cut int) {
	from := 0
	if v := r.Header.Get("Range"); v != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.(http.Flusher).Flush()
	_, _ = w.Write(body[from:min(len(body), from+cut)])
}

func wantPulled(t *testing.T, s *image.Store, ref string) {
	t.Helper()
	root := mounted(t, s, ref, t.TempDir()).Path
	if fi, err := os.Stat(filepath.Join(root, "noise")); err != nil || fi.Size() != 1<<20 {
		t.Errorf("the image holds %v, %v", fi, err)
	}
}

// TestPullGoesOn breaks the connection again and again within one pull.
func TestPullGoesOn(t *testing.T) {
	t.Parallel() // it waits
	const step = 300_000
	whole := func(w http.ResponseWriter, r *http.Request, body []byte, cut int) { // knows no ranges
		r.Header.Del("Range")
		part(w, r, body, cut)
	}
	for name, c := range map[string]struct {
		answer func(f *flaky) func(http.ResponseWriter, *http.Request, int)
		max    int // requests
	}{
		"ranges": {func(f *flaky) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, _ int) { part(w, r, f.body, step) }
		}, 4},
		"no ranges": {func(f *flaky) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) { whole(w, r, f.body, step*(n+1)) }
		}, 4},
		"not satisfiable": {func(f *flaky) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if r.Header.Get("Range") != "" {
					w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
					return
				}
				part(w, r, f.body, step+n*len(f.body))
			}
		}, 3},
		"another range": {func(f *flaky) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if r.Header.Get("Range") != "" {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(f.body)-1, len(f.body)))
					w.WriteHeader(http.StatusPartialContent)
					_, _ = w.Write(f.body)
					return
				}
				part(w, r, f.body, step+n*len(f.body))
			}
		}, 3},
		"errors between": {func(f *flaky) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				part(w, r, f.body, 2*step)
			}
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlaky(t)
			f.serveLayer(c.answer(f))
			store := t.TempDir()
			s := open(t, store, nil)
			var seen []image.Progress
			if _, err := s.Pull(t.Context(), f.ref, &image.PullOptions{Progress: func(p image.Progress) { seen = append(seen, p) }}); err != nil {
				t.Fatal(err)
			}
			if got := f.asked(); len(got) > c.max {
				t.Errorf("the layer was asked for with the ranges %q; want %d requests at most", got, c.max)
			}
			if last := seen[len(seen)-1]; last.Done != last.Total {
				t.Errorf("the last progress is %+v", last)
			}
			wantPulled(t, s, f.ref)
			wantChildren(t, filepath.Join(store, "partial"), 0)
		})
	}
}

func wantChildren(t testing.TB, dir string, want int) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != want {
		t.Errorf("%s holds %v, %v; want %d", dir, left, err, want)
	}
}

// TestPullBreaksOff: a connection that breaks without end ends the pull, with
// the right kind; the next goes on, with another store as after a restart.
func TestPullBreaksOff(t *testing.T) {
	t.Parallel() // it waits
	f := newFlaky(t)
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, n int) {
		part(w, r, f.body, []int{500_000, 0}[min(n, 1)])
	})
	store := t.TempDir()
	_, err := open(t, store, nil).Pull(t.Context(), f.ref, nil)
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "after 500000 of") {
		t.Fatalf("Pull: %v; want fault.Unavailable that says how far it came", err)
	}
	wantChildren(t, filepath.Join(store, "partial"), 1)
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) { part(w, r, f.body, len(f.body)) })
	s := open(t, store, nil)
	before := len(f.asked())
	if info, err := s.FsInfo(t.Context()); err != nil || info.UsedBytes.Value < 500_000 {
		t.Errorf("FsInfo: %v, %v; want it to count what is half fetched", info, err)
	}
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.asked()[before:]; len(got) != 1 || got[0] != "bytes=500000-" {
		t.Errorf("the second pull asked for the ranges %q; want the rest, once", got)
	}
	wantPulled(t, s, f.ref)
	wantChildren(t, filepath.Join(store, "partial"), 0)
}

// TestPullEndsEarly: an answer of no announced length that ends before the layer does
// is continued, within one pull and with the next.
func TestPullEndsEarly(t *testing.T) {
	t.Parallel() // it waits
	f := newFlaky(t)
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, n int) {
		unannounced(w, r, f.body, []int{400_000, 300_000, len(f.body)}[min(n, 2)])
	})
	s := open(t, t.TempDir(), nil)
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.asked(); len(got) != 3 || got[1] != "bytes=400000-" || got[2] != "bytes=700000-" {
		t.Errorf("the layer was asked for with the ranges %q", got)
	}
	wantPulled(t, s, f.ref)

	f = newFlaky(t)
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, n int) {
		unannounced(w, r, f.body, []int{400_000, 0}[min(n, 1)])
	})
	s = open(t, t.TempDir(), nil)
	if _, err := s.Pull(t.Context(), f.ref, nil); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "after 400000 of") {
		t.Fatalf("Pull: %v; want fault.Unavailable that says how far it came", err)
	}
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) { unannounced(w, r, f.body, len(f.body)) })
	before := len(f.asked())
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.asked()[before:]; len(got) != 1 || got[0] != "bytes=400000-" {
		t.Errorf("the second pull asked for the ranges %q; want the rest, once", got)
	}
}

// TestPullResumesFrom puts all sorts of beginnings where a cut download would
// have left them.
func TestPullResumesFrom(t *testing.T) {
	f := newFlaky(t)
	half := f.body[:len(f.body)/2]
	for name, c := range map[string]struct {
		left   []byte
		ranges []string
	}{
		"half":      {half, []string{fmt.Sprintf("bytes=%d-", len(half))}},
		"all":       {f.body, nil},
		"too much":  {append(bytes.Clone(f.body), 1), []string{""}},
		"empty":     {nil, []string{""}},
		"zeros":     {make([]byte, len(half)), []string{fmt.Sprintf("bytes=%d-", len(half)), ""}},
		"all zeros": {make([]byte, len(f.body)), []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			f.ranges = nil
			f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) { part(w, r, f.body, len(f.body)) })
			store := t.TempDir()
			s := open(t, store, nil)
			if err := os.WriteFile(filepath.Join(store, "partial", f.layer), c.left, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
				t.Fatal(err)
			}
			if got := f.asked(); fmt.Sprint(got) != fmt.Sprint(c.ranges) {
				t.Errorf("the layer was asked for with the ranges %q, want %q", got, c.ranges)
			}
			wantPulled(t, s, f.ref)
		})
	}
}

// TestPullChangedContent: a registry whose content is not what its digest says
// is refused, and nothing of it is kept.
func TestPullChangedContent(t *testing.T) {
	f := newFlaky(t)
	other := bytes.Repeat([]byte("x"), len(f.body))
	for name, c := range map[string]struct{ body, left []byte }{
		"fresh":   {other, nil},
		"resumed": {other, f.body[:1000]},
		"short":   {f.body[:1000], nil},
		"long":    {append(bytes.Clone(f.body), 'x'), nil},
	} {
		t.Run(name, func(t *testing.T) {
			f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) { part(w, r, c.body, len(c.body)) })
			store := t.TempDir()
			s := open(t, store, nil)
			if err := os.WriteFile(filepath.Join(store, "partial", f.layer), c.left, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Pull(t.Context(), f.ref, nil); !errors.Is(err, fault.Invalid) {
				t.Errorf("Pull: %v; want fault.Invalid", err)
			}
			wantEmpty(t, store)
		})
	}
}

// TestPullCancelled: what was fetched by then is used by the next.
func TestPullCancelled(t *testing.T) {
	f := newFlaky(t)
	sent := make(chan struct{})
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, n int) {
		if n > 0 {
			part(w, r, f.body, len(f.body))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(f.body)))
		_, _ = w.Write(f.body[:600_000])
		w.(http.Flusher).Flush()
		close(sent)
		<-r.Context().Done()
	})
	store := t.TempDir()
	s := open(t, store, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-sent
		for partialSize(store, f.layer) < 500_000 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := s.Pull(ctx, f.ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Pull: %v, want context.Canceled", err)
	}
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.asked(); len(got) != 2 || got[1] == "" {
		t.Errorf("the layer was asked for with the ranges %q; want the second to go on", got)
	}
}

func partialSize(store, layer string) int64 {
	fi, err := os.Stat(filepath.Join(store, "partial", layer))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// TestPullSilence: a registry that hangs is asked again, and then given up.
func TestPullSilence(t *testing.T) {
	t.Parallel() // it waits
	f := newFlaky(t)
	hang := func(r *http.Request) { <-r.Context().Done() }
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, n int) {
		switch n {
		case 0: // in the middle
			w.Header().Set("Content-Length", strconv.Itoa(len(f.body)))
			_, _ = w.Write(f.body[:500_000])
			w.(http.Flusher).Flush()
			hang(r)
		case 1: // at the start
			hang(r)
		default:
			part(w, r, f.body, len(f.body))
		}
	})
	s := open(t, t.TempDir(), &image.Options{PullStall: time.Second})
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	wantPulled(t, s, f.ref)
	for name, kind := range map[string]string{"manifest": "/manifests/", "config or layer": "/blobs/", "greeting": "/v2/"} {
		f.on(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, kind) {
				hang(r)
			}
			return false
		})
		s := open(t, t.TempDir(), &image.Options{PullStall: 100 * time.Millisecond})
		if _, err := s.Pull(t.Context(), f.ref, nil); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "has sent nothing for 100ms") {
			t.Errorf("with a silent %s: %v; want fault.Unavailable that says so", name, err)
		}
	}
}

// TestPartialsGo: the beginning of a layer that nobody asks for is removed.
func TestPartialsGo(t *testing.T) {
	store := t.TempDir()
	open(t, store, nil)
	for name, age := range map[string]time.Duration{"new": time.Hour, "old": 25 * time.Hour} {
		path := filepath.Join(store, "partial", name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	open(t, store, nil)
	wantGone(t, filepath.Join(store, "partial", "old"))
	wantFile(t, filepath.Join(store, "partial", "new"), "x")
}
