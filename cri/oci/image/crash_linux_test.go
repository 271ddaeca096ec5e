package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// unmountAll takes away every mount on path, as a reboot does.
func unmountAll(t testing.TB, path string) {
	t.Helper()
	for unix.Unmount(path, unix.MNT_DETACH) == nil {
	}
}

// TestMain lets the test binary be a process that uses a store until somebody
// kills it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGE_TEST_STORE"); dir != "" {
		use := useForEver
		if os.Getenv("IMAGE_TEST_PULL") != "" {
			use = pullForEver
		}
		fmt.Println("ready")
		fmt.Fprintln(os.Stderr, use(dir, os.Args[1]))
		os.Exit(1)
	}
	os.Exit(runTests(m))
}

// runTests runs the tests with nobody's credentials, which the developer's own
// DOCKER_CONFIG may name.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "docker-config")
	if err == nil {
		err = os.Setenv("DOCKER_CONFIG", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// useForEver loads an image, mounts and releases root file systems of it and
// removes it, again and again.
func useForEver(dir, archive string) error {
	ctx := context.Background()
	for {
		s, err := image.Open(filepath.Join(dir, "store"), nil)
		if err != nil {
			return err
		}
		names, err := s.Load(ctx, archive)
		if err != nil {
			return err
		}
		for _, c := range []string{"c1", "c2"} {
			if _, err := s.Rootfs(ctx, names[0], filepath.Join(dir, c)); err != nil {
				return err
			}
		}
		if err := s.Remove(ctx, names[0]); err != nil {
			return err
		}
		for _, c := range []string{"c1", "c2"} {
			if err := s.ReleaseRootfs(filepath.Join(dir, c)); err != nil {
				return err
			}
		}
	}
}

// pullForEver pulls an image and removes it, again and again.
func pullForEver(dir, ref string) error {
	ctx := context.Background()
	s, err := image.Open(filepath.Join(dir, "store"), nil)
	if err != nil {
		return err
	}
	for {
		if _, err := s.Pull(ctx, ref, nil); err != nil {
			return err
		}
		if err := s.Remove(ctx, ref); err != nil {
			return err
		}
	}
}

// untilKilled runs a process that uses the store below dir, and kills it after
// a random time.
func untilKilled(t *testing.T, dir, arg string, env ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", arg)
	cmd.Env = append(append(os.Environ(), "IMAGE_TEST_STORE="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it ended by itself: %v", err)
	}
}

// TestKillPull kills a process that pulls, from a registry that dribbles so that
// downloads are cut, too. What is there afterwards is right or taken up again.
func TestKillPull(t *testing.T) {
	testenv.Require(t, testenv.Root)
	f := newFlaky(t)
	var began, continued atomic.Int32
	f.serveLayer(func(w http.ResponseWriter, r *http.Request, _ int) {
		from := 0
		if v := r.Header.Get("Range"); v != "" {
			continued.Add(1)
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.body)-1, len(f.body)))
			w.WriteHeader(http.StatusPartialContent)
		}
		began.Add(1)
		for rest := f.body[from:]; len(rest) > 0; rest = rest[min(100_000, len(rest)):] {
			if _, err := w.Write(rest[:min(100_000, len(rest))]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(3 * time.Millisecond)
		}
	})
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	for range 15 {
		untilKilled(t, dir, f.ref, "IMAGE_TEST_PULL=1")
		s := open(t, store, nil)
		wantChildren(t, filepath.Join(store, "ingest"), 0)
		if _, err := s.FsInfo(t.Context()); err != nil {
			t.Fatal(err)
		}
		if im, err := s.Status(t.Context(), f.ref); err != nil {
			t.Fatal(err)
		} else if im != nil { // then it is all there
			t.Run("it is whole", func(t *testing.T) { wantPulled(t, s, f.ref) }) // and is released
		}
	}
	t.Logf("%d downloads, of which %d went on where one was cut", began.Load(), continued.Load())
	s := open(t, store, nil)
	if _, err := s.Pull(t.Context(), f.ref, nil); err != nil {
		t.Fatal(err)
	}
	t.Run("it is whole", func(t *testing.T) { wantPulled(t, s, f.ref) })
	if err := s.Remove(t.Context(), f.ref); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, store)
}

// TestKill kills a process that uses the store at random moments. After each
// the store opens, holds nothing half done, and works; in the end nothing is left.
func TestKill(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	archive := dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")), layerOf(t, manyFiles(200)...))})
	for range 15 {
		untilKilled(t, dir, archive)
		s := open(t, store, nil)
		if _, err := s.FsInfo(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Join(store, "ingest")); err != nil || len(left) > 0 {
			t.Errorf("opening the store left unfinished work: %v, %v", left, err)
		}
		if _, err := s.Load(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
		root, err := s.Rootfs(t.Context(), testName, filepath.Join(dir, "c1"))
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, filepath.Join(root.Path, "a"), "b")
		wantFile(t, filepath.Join(root.Path, "199"), "")
	}
	s := open(t, store, nil)
	if err := s.Remove(t.Context(), testName); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"c1", "c2"} {
		if err := s.ReleaseRootfs(filepath.Join(dir, c)); err != nil {
			t.Fatal(err)
		}
		if n := mountsOn(t, filepath.Join(dir, c, "rootfs")); n > 0 {
			t.Errorf("%d mounts are left", n)
		}
	}
	wantEmpty(t, store)
}
