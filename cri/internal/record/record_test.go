package record_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func open(t *testing.T, path string) *record.Dir {
	t.Helper()
	d, err := record.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestWhatIsPutIsLoaded(t *testing.T) {
	t.Run("spread", func(t *testing.T) { wantLoaded(t, open(t, t.TempDir())) })
	t.Run("where files cannot be spread", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "spread"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wantLoaded(t, open(t, dir))
	})
}

func wantLoaded(t *testing.T, d *record.Dir) {
	t.Helper()
	at := time.Now().Round(0).UTC()
	s := &record.Sandbox{
		ID: "s", Dir: d.Home("s"), CreatedAt: at, Handler: "h", Ready: true, IPs: []string{"10.0.0.1", "::1"}, State: []byte(`{"a":1}`),
		Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "n", Uid: "u"}, Hostname: "host"},
	}
	c := &record.Container{
		ID: "c", Sandbox: s, Dir: d.Home("c"), CreatedAt: at, StartedAt: at.Add(1), ImageRef: "i", LogPath: "/l", State: []byte(`[]`),
		Exit:   record.Exit{Code: 3, At: at.Add(2)}.Normal(),
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Command: []string{"x"}},
	}
	err := errors.Join(d.PutSandbox(s, record.Creating), d.PutSandbox(s, record.Live), d.PutContainer(c, record.Removing))
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]*record.Sandbox{"s": s}, all.Sandboxes, protocmp.Transform()); diff != "" {
		t.Errorf("sandboxes (-put +loaded):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]*record.Container{"c": c}, all.Containers, protocmp.Transform()); diff != "" {
		t.Errorf("containers (-put +loaded):\n%s", diff)
	}
	if all.Phase("s") != record.Live || all.Phase("c") != record.Removing {
		t.Errorf("phases %q and %q", all.Phase("s"), all.Phase("c"))
	}
	if err := os.MkdirAll(filepath.Join(d.Home("c"), "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(d.RemoveContainer("c"), d.RemoveSandbox("s")); err != nil {
			t.Fatal(err)
		}
	}
	if all, err = d.Load(); err != nil || len(all.Sandboxes)+len(all.Containers) > 0 {
		t.Errorf("after the removal: %v, %v", all, err)
	}
	if _, err := os.Stat(d.Home("c")); !os.IsNotExist(err) {
		t.Errorf("the directory of a removed container: %v", err)
	}
}

func TestLoadRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, tc := range map[string]struct{ file, content string }{
		"newer version": {"sandboxes/x.json", `{"version":1,"id":"x"}` + "\n" + `{"version":3,"id":"x"}` + "\n"},
		"no json":       {"sandboxes/x.json", `{"version"` + "\n"},
		"bad config":    {"containers/x.json", `{"version":1,"id":"x","config":"////"}` + "\n"},
		"no sandbox":    {"containers/x.json", `{"version":1,"id":"x","sandboxId":"y"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			d := open(t, path)
			if _, err := d.Load(); err != nil { // of this boot from here on
				t.Fatal(err)
			}
			file := filepath.Join(path, tc.file)
			if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v, want an error that names the file", err)
			}
		})
	}
}

// TestLossOfPower: what a machine that stopped was writing is removed and named,
// once, and the rest is loaded. What a newer program wrote stays what it is.
func TestLossOfPower(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	s := &record.Sandbox{ID: "s", Config: &runtimeapi.PodSandboxConfig{}}
	if err := errors.Join(d.PutSandbox(s, record.Live), os.Mkdir(d.Home("s"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err != nil {
		t.Fatal(err)
	}
	left := map[string]string{
		"boot": "another\n", "sandboxes/empty.json": "", "containers/cut.json": `{"version":1,"id":"cut","sandbox`,
		"containers/alone.json": `{"version":1,"id":"alone","sandboxId":"empty"}` + "\n", "dirs/nobodys": "",
	}
	for name, text := range left {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Sandboxes) != 1 || len(all.Containers) != 0 || len(all.Lost) != len(left)-1 {
		t.Errorf("%d sandboxes, %d containers, lost %q", len(all.Sandboxes), len(all.Containers), all.Lost)
	}
	for name := range left {
		if _, err := os.Stat(filepath.Join(path, name)); name != "boot" && !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(d.Home("s")); err != nil {
		t.Errorf("the directory of a sandbox on record: %v", err)
	}
	if all, err := d.Load(); err != nil || len(all.Lost) > 0 {
		t.Errorf("the second time: %v, %v", all, err)
	}
	for name, text := range map[string]string{"boot": "another\n", "sandboxes/newer.json": `{"version":3,"id":"newer"}` + "\n"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "newer.json") {
		t.Errorf("a newer program's record after a reboot: %v", err)
	}
}

// TestCutAnywhere cuts a record after every byte, which is what the death of a server
// within a write can leave: the line before counts, and the next change is read as
// well. Without one whole line nothing was on record.
func TestCutAnywhere(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := d.Load(); err != nil { // of this boot from here on
		t.Fatal(err)
	}
	file := filepath.Join(path, "sandboxes", "s.json")
	s := &record.Sandbox{ID: "s", Config: &runtimeapi.PodSandboxConfig{}}
	if err := d.PutSandbox(s, record.Creating); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	s.Ready = true
	if err := d.PutSandbox(s, record.Live); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := record.Phase("")
		switch {
		case n == len(whole):
			want = record.Live
		case n >= int(first.Size()):
			want = record.Creating
		}
		all, err := d.Load()
		if err != nil || all.Phase("s") != want || len(all.Lost) > 0 {
			t.Fatalf("cut after %d bytes of %d: phase %q, want %q: %v", n, len(whole), all.Phase("s"), want, err)
		}
		if want == "" {
			if _, err := os.Stat(file); !os.IsNotExist(err) {
				t.Fatalf("cut after %d bytes the file is left: %v", n, err)
			}
		}
		if err := d.PutSandbox(s, record.Removing); err != nil {
			t.Fatal(err)
		}
		if all, err = d.Load(); err != nil || all.Phase("s") != record.Removing {
			t.Fatalf("changed after it was cut after %d bytes: phase %q: %v", n, all.Phase("s"), err)
		}
	}
}

// TestDamagedLine: of a record whose last line a loss of power has damaged, the one
// before counts. Without such a loss it is an error.
func TestDamagedLine(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := d.Load(); err != nil {
		t.Fatal(err)
	}
	s := &record.Sandbox{ID: "s", Config: &runtimeapi.PodSandboxConfig{}}
	if err := d.PutSandbox(s, record.Live); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "sandboxes", "s.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(good, "\x00\x00{}\n\x00"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "s.json") {
		t.Errorf("without a reboot: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, "boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := d.Load()
	if err != nil || all.Phase("s") != record.Live || len(all.Lost) > 0 {
		t.Errorf("after a reboot: phase %q, lost %q: %v", all.Phase("s"), all.Lost, err)
	}
	if left, err := os.ReadFile(file); err != nil || string(left) != string(good) {
		t.Errorf("left in the file: %q, %v", left, err)
	}
}

// TestManyChanges: a record that changes for ever does not grow for ever.
func TestManyChanges(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	c := &record.Container{
		ID: "c", Sandbox: &record.Sandbox{ID: "s"}, Config: &runtimeapi.ContainerConfig{Command: []string{strings.Repeat("x", 3000)}},
	}
	file := filepath.Join(path, "containers", "c.json")
	var most int64
	for range 100 {
		if err := d.PutContainer(c, record.Live); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, fi.Size())
	}
	if most < 32<<10 || most > 64<<10 {
		t.Errorf("the file had %d bytes at most", most)
	}
}

// TestFullDisk: a change that does not fit is an error and leaves the record as it was.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := t.TempDir()
	d := open(t, path)
	if _, err := d.Load(); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(path, "sandboxes")
	if err := mount.Tmpfs(small, &mount.TmpfsOptions{Size: 8 << 10}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(small); err != nil {
			t.Error(err)
		}
	})
	s := &record.Sandbox{ID: "s", Config: &runtimeapi.PodSandboxConfig{Hostname: strings.Repeat("x", 1000)}}
	phases := []record.Phase{record.Live, record.Removing}
	var written record.Phase
	for n := 0; ; n++ {
		if err := d.PutSandbox(s, phases[n%2]); err != nil {
			break
		}
		if written = phases[n%2]; n > 10 {
			t.Fatal("the disk is not full")
		}
	}
	all, err := d.Load()
	if err != nil || all.Phase("s") != written {
		t.Errorf("phase %q, want %q: %v", all.Phase("s"), written, err)
	}
	raw, err := os.ReadFile(filepath.Join(small, "s.json"))
	if err != nil || !strings.HasSuffix(string(raw), "}\n") {
		t.Errorf("the file ends in %q, %v", raw[max(0, len(raw)-20):], err)
	}
}

func TestOneServerForADirectory(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := record.Open(path, slog.New(slog.DiscardHandler)); !errors.Is(err, fault.AlreadyExists) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "stop it, or choose another directory") {
		t.Errorf("a second server: %v", err)
	}
	d.Close()
	open(t, path)
}
