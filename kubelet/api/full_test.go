package api_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestFullDisk has a store whose file system fills up: what changes nothing
// goes on, what cannot be written is refused and said so, and all is well when there is
// room again.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := serve(t, dir)
	s.make(t, "POST", pods, podDoc)
	w := s.watch(t, configMaps+"?watch=1")
	fill(t, filepath.Join(dir, "ballast"))
	stored, refused := 0, 0
	for i := range 100 {
		a := s.do(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"cm%d"},"data":{"k":%q}}`, i, strings.Repeat("x", 30_000)))
		switch a.code {
		case 201:
			stored++
		case 507:
			refused++
			a.want(t, 507, "disk", "make room and try again", "kind==Status")
			s.do(t, "GET", fmt.Sprintf("%s/cm%d", configMaps, i), "").want(t, 404)
		default:
			t.Fatalf("got %d %s", a.code, a.body)
		}
	}
	if refused == 0 {
		t.Fatalf("%d were stored: the disk is not full", stored)
	}
	for range stored {
		if line := w.next(); at(line, "type") != "ADDED" {
			t.Fatalf("watch: %.200s", line)
		}
	}
	// What the kubelet reports in between is held back, and written when there is room.
	s.doAs(t, s.kubelet, "PATCH", pods+"/web/status", `{"status":{"message":"held back"}}`, mergePatch).want(t, 200)
	time.Sleep(400 * time.Millisecond) // over the first attempt to write it
	s.do(t, "GET", pods+"/web", "").want(t, 200, "status.message==held back")
	must(t, os.Remove(filepath.Join(dir, "ballast")))
	eventually(t, "the status is on disk", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "objects.db"))
		must(t, err)
		return strings.Contains(string(data), "held back")
	})
	s.make(t, "POST", configMaps, cmDoc)
	if line := w.next(); at(line, "object.metadata.name") != "cm" {
		t.Errorf("watch: %.200s", line)
	}
	if got := strings.Count(s.do(t, "GET", configMaps, "").body, `"uid"`); got != stored+1 {
		t.Errorf("%d objects, want %d", got, stored+1)
	}
}

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
