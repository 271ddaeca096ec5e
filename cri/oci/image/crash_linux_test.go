package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
		fmt.Fprintln(os.Stderr, useForEver(dir, os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
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

// TestKill kills a process that uses the store at random moments. After each
// the store opens, holds nothing half done, and works; in the end nothing is left.
func TestKill(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	archive := dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")), layerOf(t, manyFiles(200)...))})
	for range 15 {
		cmd := exec.Command("/proc/self/exe", archive)
		cmd.Env = append(os.Environ(), "IMAGE_TEST_STORE="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+rand.IntN(80)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("it ended by itself: %v", cmd.ProcessState)
		}
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
