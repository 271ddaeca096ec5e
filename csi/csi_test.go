package csi_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

// fake is a driver of which every function succeeds and does nothing; it runs
// without root.
func fake() *csi.Driver {
	return &csi.Driver{
		Name: "fake.csi.example.com", Version: "1", NodeID: "n",
		CreateVolume: func(_ context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			return &csi.Volume{ID: "id-" + r.Name, Capacity: r.Required}, nil
		},
		DeleteVolume:    func(context.Context, *csi.DeleteRequest) error { return nil },
		GetVolume:       func(_ context.Context, id string) (*csi.Volume, error) { return &csi.Volume{ID: id}, nil },
		PublishVolume:   func(_ context.Context, r *csi.PublishRequest) error { return os.WriteFile(r.TargetPath, nil, 0o600) },
		UnpublishVolume: func(_ context.Context, r *csi.UnpublishRequest) error { return os.RemoveAll(r.TargetPath) },
	}
}

// serve runs the driver until stop is called.
func serve(t *testing.T, d *csi.Driver) (c *client.Client, log *syncbuf.Buffer, stop func()) {
	t.Helper()
	log = &syncbuf.Buffer{}
	dir, err := os.MkdirTemp("", "csi") // t.TempDir of a fuzz test has a "#" in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- csi.Serve(ctx, endpoint, d, &csi.Options{Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	}()
	c, err = client.Dial(endpoint, &client.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	ready, end := context.WithTimeout(t.Context(), 5*time.Second)
	defer end()
	if err := c.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return c, log, stop
}

var access = client.Access{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}

func wanted(name string) client.Create {
	return client.Create{Name: name, Access: []client.Access{access}}
}

func TestCapabilitiesFollowTheFunctions(t *testing.T) {
	d := fake()
	c, _, stop := serve(t, d)
	info, err := c.GetInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != d.Name || info.NodeID != "n" || !info.Can(spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME) ||
		info.Can(spec.ControllerServiceCapability_RPC_LIST_VOLUMES) || info.NodeCan(spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) {
		t.Errorf("info %+v", info)
	}
	_, err = c.Node.NodeStageVolume(t.Context(), &spec.NodeStageVolumeRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("staging: %v", err)
	}
	stop()

	d = fake()
	d.CreateVolume, d.DeleteVolume, d.GetVolume = nil, nil, nil
	c, _, _ = serve(t, d)
	if info, err = c.GetInfo(t.Context()); err != nil || len(info.Controller) != 0 {
		t.Errorf("without a controller: %+v, %v", info, err)
	}
	if _, err := c.CreateVolume(t.Context(), wanted("v")); status.Code(err) != codes.Unimplemented {
		t.Errorf("creating: %v", err)
	}
}

// TestOnlyWhatWasValidatedIsConfirmed: the driver is not asked about parameters.
func TestOnlyWhatWasValidatedIsConfirmed(t *testing.T) {
	d := fake()
	d.GetVolume = func(_ context.Context, id string) (*csi.Volume, error) {
		return &csi.Volume{ID: id, Context: map[string]string{"pool": "a"}}, nil
	}
	c, _, _ := serve(t, d)
	for pool, confirmed := range map[string]bool{"a": true, "b": false} {
		resp, err := c.Controller.ValidateVolumeCapabilities(t.Context(), &spec.ValidateVolumeCapabilitiesRequest{
			VolumeId: "v", VolumeCapabilities: []*spec.VolumeCapability{access.Capability()},
			VolumeContext: map[string]string{"pool": pool, "csi.storage.k8s.io/more": "x"}, Parameters: map[string]string{"p": "q"},
		})
		if err != nil || (resp.GetConfirmed() != nil) != confirmed || confirmed == (resp.GetMessage() != "") || len(resp.GetConfirmed().GetParameters()) > 0 {
			t.Errorf("pool %q: %v, %v", pool, resp, err)
		}
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*csi.Driver){
		"name":        func(d *csi.Driver) { d.Name = "under_score" },
		"version":     func(d *csi.Driver) { d.Version = "" },
		"node id":     func(d *csi.Driver) { d.NodeID = "" },
		"half":        func(d *csi.Driver) { d.DeleteVolume = nil },
		"no get":      func(d *csi.Driver) { d.GetVolume = nil },
		"half stage":  func(d *csi.Driver) { d.StageVolume = func(context.Context, *csi.StageRequest) error { return nil } },
		"nothing":     func(d *csi.Driver) { *d = csi.Driver{Name: "a", Version: "1"} },
		"no unpublsh": func(d *csi.Driver) { d.UnpublishVolume = nil },
	} {
		d := fake()
		change(d)
		if err := csi.Serve(t.Context(), filepath.Join(t.TempDir(), "s.sock"), d, nil); !errors.Is(err, csi.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOverlapIsAborted(t *testing.T) {
	d := fake()
	entered, leave := make(chan struct{}), make(chan struct{})
	d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
		entered <- struct{}{}
		<-leave
		return &csi.Volume{ID: "v"}, ctx.Err()
	}
	c, _, _ := serve(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.CreateVolume(ctx, wanted("v"))
		first <- err
	}()
	<-entered
	cancel() // the caller gives up; the operation does not
	if err := <-first; !client.Uncertain(err) {
		t.Errorf("the first call: %v", err)
	}
	_, err := c.CreateVolume(t.Context(), wanted("v"))
	if !errors.Is(err, csi.ErrAborted) {
		t.Errorf("the second call: %v", err)
	}
	leave <- struct{}{}
	go func() { <-entered; leave <- struct{}{} }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err = c.CreateVolume(t.Context(), wanted("v")); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

func TestPanicsAndFullDisks(t *testing.T) {
	d := fake()
	d.DeleteVolume = func(_ context.Context, r *csi.DeleteRequest) error {
		if r.VolumeID == "full" {
			return &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}
		}
		panic("boom")
	}
	c, _, _ := serve(t, d)
	for range 2 { // the lock of the first is not left behind
		if err := c.DeleteVolume(t.Context(), "v", nil); status.Code(err) != codes.Internal {
			t.Errorf("a panic: %v", err)
		}
	}
	if err := c.DeleteVolume(t.Context(), "full", nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a full disk: %v", err)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	const canary = "canary-5f2b"
	c, log, _ := serve(t, fake())
	req := wanted("v")
	req.Secrets = map[string]string{"k": canary}
	req.Access[0].MountFlags = []string{"password=" + canary}
	req.Parameters = map[string]string{"visible": "yes"}
	if _, err := c.CreateVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if s := log.String(); strings.Contains(s, canary) || !strings.Contains(s, "visible") {
		t.Errorf("the log is %s", s)
	}
	if s := (csi.Secrets{"k": canary}); strings.Contains(s.String(), canary) || strings.Contains(slog.AnyValue(s).Resolve().String(), canary) {
		t.Error("Secrets print their values")
	}
}

// TestTableSurvivesRestart publishes, restarts the driver, and publishes with
// other arguments.
func TestTableSurvivesRestart(t *testing.T) {
	state, target := t.TempDir(), filepath.Join(t.TempDir(), "t")
	use := client.Use{VolumeID: "v", Access: access}
	for i, c := range []struct {
		readOnly bool
		want     codes.Code
	}{{false, codes.OK}, {false, codes.OK}, {true, codes.AlreadyExists}} {
		d := fake()
		d.StateDir = state
		cl, _, stop := serve(t, d)
		if err := cl.NodePublish(t.Context(), use, target, c.readOnly); status.Code(err) != c.want {
			t.Errorf("call %d: %v, want %s", i, err, c.want)
		}
		stop()
	}
	d := fake()
	d.StateDir = state
	c, _, _ := serve(t, d)
	if err := c.DeleteVolume(t.Context(), "v", nil); !errors.Is(err, csi.ErrFailedPrecondition) {
		t.Errorf("deleting a published volume: %v", err)
	}
	if err := c.NodeUnpublish(t.Context(), "v", target); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteVolume(t.Context(), "v", nil); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(state, "published", "*")); len(left) != 0 {
		t.Errorf("left %q", left)
	}
}

func TestNewerStateIsRefused(t *testing.T) {
	d := fake()
	d.StateDir = t.TempDir()
	dir := filepath.Join(d.StateDir, "published")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(`{"version":2,"volume":"v"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := csi.Serve(t.Context(), filepath.Join(t.TempDir(), "s.sock"), d, nil); !errors.Is(err, csi.ErrFailedPrecondition) {
		t.Error(err)
	}
}

func TestRegistersWithAKubelet(t *testing.T) {
	registry := t.TempDir()
	seen := make(chan registration.Plugin, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		handlers := map[string]registration.Handler{registration.CSIPlugin: {
			Register:   func(_ context.Context, p registration.Plugin) error { seen <- p; return nil },
			Deregister: func(registration.Plugin) {},
		}}
		if err := registration.Watch(ctx, registry, handlers, nil); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(t.TempDir(), "csi.sock")
	group.Go(func() {
		if err := csi.Serve(ctx, socket, fake(), &csi.Options{Registry: registry}); err != nil {
			t.Error(err)
		}
	})
	select {
	case p := <-seen:
		if p.Name != "fake.csi.example.com" || p.Endpoint != socket || !slices.Equal(p.Versions, []string{"1.0.0"}) {
			t.Errorf("registered as %+v", p)
		}
	case <-time.After(5 * time.Second):
		t.Error("not registered after 5 s")
	}
	cancel()
	group.Wait()
}

// FuzzRequests sends requests of all kinds with arbitrary field values: none may
// end the server, and each gets an answer with a code that the specification has.
func FuzzRequests(f *testing.F) {
	f.Add("v", "/t", "/s", int64(1), int64(2), int32(1), "tok")
	f.Add("", "", "", int64(-1), int64(0), int32(99), "0")
	f.Fuzz(func(t *testing.T, id, target, staging string, required, limit int64, mode int32, token string) {
		d := fake()
		d.PublishVolume = func(context.Context, *csi.PublishRequest) error { return nil }
		d.UnpublishVolume = func(context.Context, *csi.UnpublishRequest) error { return nil }
		d.ListVolumes = func(context.Context) ([]*csi.Volume, error) { return []*csi.Volume{{ID: "a"}, {ID: id}}, nil }
		c, _, _ := serve(t, d)
		a := client.Access{Mode: spec.VolumeCapability_AccessMode_Mode(mode), FSType: token}
		_, err1 := c.CreateVolume(t.Context(), client.Create{Name: id, Required: required, Limit: limit, Access: []client.Access{a}})
		_, err2 := c.Controller.ListVolumes(t.Context(), &spec.ListVolumesRequest{MaxEntries: mode, StartingToken: token})
		err3 := c.NodePublish(t.Context(), client.Use{VolumeID: id, StagingPath: staging, Access: a}, target, true)
		err4 := c.NodeUnpublish(t.Context(), id, target)
		for _, err := range []error{err1, err2, err3, err4} {
			if code := status.Code(err); code == codes.Unknown || code == codes.Unavailable {
				t.Error(err)
			}
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
