package image_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestTwoStores opens one directory twice, as two processes do.
func TestTwoStores(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir, nil), open(t, dir, nil)
	if _, err := a.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))})); err != nil {
		t.Fatal(err)
	}
	if im, err := b.Status(t.Context(), testName); err != nil || im == nil {
		t.Errorf("the other store sees %v, %v", im, err)
	}
	if err := b.Remove(t.Context(), testName); err != nil {
		t.Fatal(err)
	}
	if im, err := a.Status(t.Context(), testName); err != nil || im != nil {
		t.Errorf("after removal the other store sees %v, %v", im, err)
	}
	wantEmpty(t, dir)
}

// TestConcurrentLoads loads images that share a layer through two stores at a
// time while others remove them.
func TestConcurrentLoads(t *testing.T) {
	dir := t.TempDir()
	base := layerOf(t, file("base", "shared"))
	var archives []string
	for i := range 4 {
		im := imageOf(t, base, layerOf(t, file("own", fmt.Sprint(i))))
		archives = append(archives, dockerArchive(t, map[string]v1.Image{fmt.Sprintf("example.com/app:v%d", i): im}))
	}
	var wg sync.WaitGroup
	for i, archive := range archives {
		s, c := open(t, dir, nil), t.TempDir()
		wg.Go(func() {
			name := fmt.Sprintf("example.com/app:v%d", i)
			for range 5 {
				if _, err := s.Load(t.Context(), archive); err != nil {
					t.Error(err)
				}
				if _, err := s.Rootfs(t.Context(), name, c); err != nil {
					t.Error(err)
				}
				if err := s.Remove(t.Context(), name); err != nil {
					t.Error(err)
				}
				wantFile(t, filepath.Join(c, "rootfs/base"), "shared")
				if err := s.ReleaseRootfs(c); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// A collection that meets another one leaves its garbage to the next.
	open(t, dir, nil)
	wantEmpty(t, dir)
}

func TestOpenRefuses(t *testing.T) {
	write := func(t *testing.T, index string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, index := range map[string]string{
		"newer version": `{"version":2,"images":{}}`,
		"damaged":       `{"version":1,`,
		"odd id":        `{"version":1,"images":{"../../x":{}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := image.Open(write(t, index), nil); !errors.Is(err, fault.FailedPrecondition) {
				t.Errorf("Open: %v, want fault.FailedPrecondition", err)
			}
		})
	}
}

// TestFsInfo compares with what du counts.
func TestFsInfo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	layer := layerOf(t, file("a", strings.Repeat("a", 3<<20)), entry{name: "hard", link: "a", kind: '1'}, file("b", "b"))
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layer)})); err != nil {
		t.Fatal(err)
	}
	info := wantUsage(t, s, dir)
	if info.FsId.Mountpoint != dir || info.Timestamp == 0 {
		t.Errorf("FsInfo is of %q at %d", info.FsId.Mountpoint, info.Timestamp)
	}
}

// wantUsage compares FsInfo with what du counts.
func wantUsage(t *testing.T, s *image.Store, dir string) *runtimeapi.FilesystemUsage {
	t.Helper()
	info, err := s.FsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := du(t, "-sB1", dir)
	if got := float64(info.UsedBytes.Value); math.Abs(got-want) > 64<<10 {
		t.Errorf("UsedBytes %v, du says %v", got, want)
	}
	if got, want := float64(info.InodesUsed.Value), du(t, "--inodes", dir); math.Abs(got-want) > 12 {
		t.Errorf("InodesUsed %v, du says %v", got, want)
	}
	return info
}

// TestFsInfoAlways: it is true of many small layers, of a pull that is under way, and of
// what one has left that was killed.
func TestFsInfoAlways(t *testing.T) {
	var layers []v1.Layer
	for i := range 100 {
		layers = append(layers, layerOf(t, file(fmt.Sprint(i), "small")))
	}
	dir := t.TempDir()
	s := open(t, dir, nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layers...)})); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, s, dir)

	r := newRegistry(t)
	lowest := layerOf(t, file("a", "b"))
	ref := r.push(t, "app:v1", imageOf(t, lowest, layerOf(t, file("c", strings.Repeat("d", 5<<20)))))
	digest, err := lowest.Digest()
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	r.on(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, digest.Hex) {
			<-gate
		}
		return false
	})
	pulled := make(chan error)
	go func() {
		_, err := s.Pull(t.Context(), ref, nil)
		pulled <- err
	}()
	for { // the layer above is unpacked, and cannot be seen yet
		found, err := filepath.Glob(filepath.Join(dir, "ingest", "*", "fs", "c"))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			if fi, err := os.Stat(found[0]); err == nil && fi.Size() == 5<<20 {
				break
			}
		}
		select {
		case err := <-pulled:
			t.Fatalf("the pull ended without its lowest layer: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	wantUsage(t, s, dir)
	close(gate)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	wantUsage(t, s, dir)
	for _, ref := range []string{ref, testName} {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		wantUsage(t, s, dir)
	}
}

// TestSize: an image is as large as its blobs, of which one may be several layers.
func TestSize(t *testing.T) {
	l := layerOf(t, noise(t, 1<<20))
	s := loaded(t, nil, l, layerOf(t, file("c", "d")), l)
	im, err := s.Status(t.Context(), testName)
	if err != nil || im.Size < 1<<20 || im.Size > 1<<20+10<<10 {
		t.Errorf("Status: %v, %v; want a size of one MiB", im, err)
	}
}

// TestContainerFsInfo: what is written to root file systems counts, what is in
// their images does not.
func TestContainerFsInfo(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", strings.Repeat("a", 3<<20)))), t.TempDir()
	usage := func() uint64 {
		t.Helper()
		info, err := s.ContainerFsInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.UsedBytes.Value
	}
	if got := usage(); got != 0 {
		t.Errorf("without a root file system: %d bytes", got)
	}
	var roots []string
	for _, c := range []string{"c1", "c2"} {
		roots = append(roots, mounted(t, s, testName, filepath.Join(dir, c)).Path)
	}
	before := usage()
	for _, r := range roots {
		if err := os.WriteFile(filepath.Join(r, "b"), make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := usage() - before; before > 1<<20 || got < 4<<20 || got > 5<<20 {
		t.Errorf("%d bytes at first, and writing two files of 2 MiB took %d", before, got)
	}
	if info, err := s.ContainerFsInfo(t.Context()); err != nil || info.FsId.Mountpoint != dir {
		t.Errorf("ContainerFsInfo is of %v, %v; want %q", info, err, dir)
	}
	if err := s.ReleaseRootfs(filepath.Join(dir, "c1")); err != nil {
		t.Fatal(err)
	}
	if got := usage(); got > 3<<20 {
		t.Errorf("with one of them released: %d bytes", got)
	}
}

func du(t *testing.T, option, dir string) float64 {
	t.Helper()
	out, err := exec.Command("du", "-s", option, dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseFloat(strings.Fields(string(out))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func BenchmarkRootfs(b *testing.B) {
	for _, layers := range []int{1, 20} {
		b.Run(fmt.Sprintf("layers=%d", layers), func(b *testing.B) {
			var all []v1.Layer
			for i := range layers {
				all = append(all, layerOf(b, file(fmt.Sprint(i), "")))
			}
			s, dir := loaded(b, nil, all...), b.TempDir()
			for b.Loop() {
				if _, err := s.Rootfs(b.Context(), testName, dir); err != nil {
					b.Fatal(err)
				}
				if err := s.ReleaseRootfs(dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStatus(b *testing.B) {
	s := loaded(b, nil, layerOf(b, file("a", "b")))
	for b.Loop() {
		if _, err := s.Status(b.Context(), testName); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	archive := dockerArchive(b, map[string]v1.Image{testName: imageOf(b, layerOf(b, file("program", strings.Repeat("x", 6<<20))))})
	s := open(b, b.TempDir(), nil)
	for b.Loop() {
		if _, err := s.Load(b.Context(), archive); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(b.Context(), testName); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
