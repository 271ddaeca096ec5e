package record_test

import (
	"errors"
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
)

func open(t *testing.T, path string) *record.Dir {
	t.Helper()
	d, err := record.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestWhatIsPutIsLoaded(t *testing.T) {
	d := open(t, t.TempDir())
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
		"newer version": {"sandboxes/x.json", `{"version":2,"id":"x"}`},
		"no json":       {"sandboxes/x.json", `{"version"`},
		"bad config":    {"containers/x.json", `{"version":1,"id":"x","config":"////"}`},
		"no sandbox":    {"containers/x.json", `{"version":1,"id":"x","sandboxId":"y"}`},
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
		"containers/alone.json": `{"version":1,"id":"alone","sandboxId":"empty"}`, "dirs/nobodys": "",
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
	for name, text := range map[string]string{"boot": "another\n", "sandboxes/newer.json": `{"version":2,"id":"newer"}`} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "newer.json") {
		t.Errorf("a newer program's record after a reboot: %v", err)
	}
}

func TestOneServerForADirectory(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := record.Open(path); !errors.Is(err, fault.AlreadyExists) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second server: %v", err)
	}
	d.Close()
	open(t, path)
}
