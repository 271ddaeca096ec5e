package hostpath_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/conformance/csisuite"
	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/csi/hostpath"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestMain serves the driver when the suite starts the test binary as one.
func TestMain(m *testing.M) {
	if os.Getenv("HOSTPATH_SERVE") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := hostpath.New(hostpath.Config{NodeID: "n1", StateDir: os.Getenv("STATE_DIRECTORY")})
	if err == nil {
		err = csi.Serve(ctx, os.Getenv("CSI_ENDPOINT"), d, nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestConformance(t *testing.T) {
	csisuite.Test(t, csisuite.Target{Exec: []string{os.Args[0]}, Env: []string{"HOSTPATH_SERVE=1"}})
}

// serve runs the driver in this process.
func serve(t testing.TB, state string) *client.Client {
	t.Helper()
	testenv.Require(t, testenv.Root)
	d, err := hostpath.New(hostpath.Config{NodeID: "n1", StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + filepath.Join(t.TempDir(), "csi.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- csi.Serve(ctx, endpoint, d, nil) }()
	c, err := client.Dial(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ready, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	if err := c.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return c
}

// place returns a directory for staging paths and targets.
func place(t testing.TB) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		left, err := mount.Below(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("mounts left: %q, %v", left, err)
		}
		if err := mount.DetachTree(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

var writer = client.Access{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}

func create(t testing.TB, c *client.Client, name string, a client.Access) *spec.Volume {
	t.Helper()
	v, err := c.CreateVolume(t.Context(), client.Create{Name: name, Required: 1 << 20, Access: []client.Access{a}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func stage(t testing.TB, c *client.Client, v *spec.Volume, dir string, a client.Access) client.Use {
	t.Helper()
	u := client.Use{VolumeID: v.VolumeId, StagingPath: filepath.Join(dir, "staging-"+v.VolumeId), Access: a}
	if err := os.MkdirAll(u.StagingPath, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := c.NodeStage(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return u
}

func want(t testing.TB, what string, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// TestPublicationTable checks every cell of the tables of CSI v1.13
// NodePublishVolume that this driver can reach.
func TestPublicationTable(t *testing.T) {
	c, dir := serve(t, t.TempDir()), place(t)
	for mode, several := range map[spec.VolumeCapability_AccessMode_Mode]bool{
		spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        false,
		spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: false,
		spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  true,
		spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   true,
	} {
		a := client.Access{Mode: mode}
		v := create(t, c, mode.String(), a)
		u := stage(t, c, v, dir, a)
		t1, t2 := filepath.Join(dir, "t1"), filepath.Join(dir, "t2")
		second := codes.FailedPrecondition
		if several {
			second = codes.OK
		}
		want(t, mode.String()+" first", c.NodePublish(t.Context(), u, t1, false), codes.OK)
		want(t, mode.String()+" T1=T2 P1=P2", c.NodePublish(t.Context(), u, t1, false), codes.OK)
		want(t, mode.String()+" T1=T2 P1!=P2", c.NodePublish(t.Context(), u, t1, true), codes.AlreadyExists)
		want(t, mode.String()+" T1!=T2 P1=P2", c.NodePublish(t.Context(), u, t2, false), second)
		want(t, mode.String()+" delete while published", c.DeleteVolume(t.Context(), v.VolumeId, nil), codes.FailedPrecondition)
		for _, target := range []string{t1, t2, t1} {
			want(t, "unpublish", c.NodeUnpublish(t.Context(), v.VolumeId, target), codes.OK)
		}
		// One whose mount somebody else took away does not stand in the way.
		want(t, mode.String()+" again", c.NodePublish(t.Context(), u, t1, false), codes.OK)
		if err := mount.Unmount(t1); err != nil {
			t.Fatal(err)
		}
		want(t, mode.String()+" after an unmount by hand", c.NodePublish(t.Context(), u, t2, false), codes.OK)
		want(t, "unpublish", c.NodeUnpublish(t.Context(), v.VolumeId, t1), codes.OK)
		want(t, "unpublish", c.NodeUnpublish(t.Context(), v.VolumeId, t2), codes.OK)
		want(t, "delete while staged", c.DeleteVolume(t.Context(), v.VolumeId, nil), codes.FailedPrecondition)
		want(t, "unstage", c.NodeUnstage(t.Context(), v.VolumeId, u.StagingPath), codes.OK)
		want(t, "delete", c.DeleteVolume(t.Context(), v.VolumeId, nil), codes.OK)
		want(t, "publish what is gone", c.NodePublish(t.Context(), u, t1, false), codes.NotFound)
	}
}

// TestParallelTargets publishes one volume at many targets at once, which must
// not be answered ABORTED.
func TestParallelTargets(t *testing.T) {
	c, dir := serve(t, t.TempDir()), place(t)
	a := client.Access{Mode: spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER}
	v := create(t, c, "many", a)
	u := stage(t, c, v, dir, a)
	for _, call := range []func(string) error{
		func(target string) error { return c.NodePublish(t.Context(), u, target, false) },
		func(target string) error { return c.NodeUnpublish(t.Context(), v.VolumeId, target) },
	} {
		var group sync.WaitGroup
		for i := range 32 {
			group.Go(func() { want(t, "parallel", call(filepath.Join(dir, fmt.Sprint(i))), codes.OK) })
		}
		group.Wait()
	}
	want(t, "unstage", c.NodeUnstage(t.Context(), v.VolumeId, u.StagingPath), codes.OK)
	want(t, "delete", c.DeleteVolume(t.Context(), v.VolumeId, nil), codes.OK)
}

func TestEphemeralVolumeIsItsTarget(t *testing.T) {
	state := t.TempDir()
	c, dir := serve(t, state), place(t)
	target := filepath.Join(dir, "t")
	u := client.Use{VolumeID: "csi-inline", Access: writer, Context: map[string]string{"csi.storage.k8s.io/ephemeral": "true"}}
	for range 2 {
		want(t, "publish", c.NodePublish(t.Context(), u, target, false), codes.OK)
	}
	if err := os.WriteFile(filepath.Join(target, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want(t, "unpublish", c.NodeUnpublish(t.Context(), u.VolumeID, target), codes.OK)
	}
	for _, sub := range []string{"data", "volumes", "published"} {
		if left, err := filepath.Glob(filepath.Join(state, sub, "*")); err != nil || len(left) > 0 {
			t.Errorf("left %q, %v", left, err)
		}
	}
	u.VolumeID = "../../etc"
	want(t, "an id that is a path", c.NodePublish(t.Context(), u, target, false), codes.InvalidArgument)
}

func TestBadRequests(t *testing.T) {
	c := serve(t, t.TempDir())
	ok := client.Create{Name: "v", Required: 1, Access: []client.Access{writer}}
	change := func(f func(*client.Create)) client.Create {
		r := ok
		f(&r)
		return r
	}
	for name, r := range map[string]struct {
		req  client.Create
		code codes.Code
	}{
		"no name":           {change(func(r *client.Create) { r.Name = "" }), codes.InvalidArgument},
		"long name":         {change(func(r *client.Create) { r.Name = string(make([]byte, 129)) }), codes.InvalidArgument},
		"no capability":     {change(func(r *client.Create) { r.Access = nil }), codes.InvalidArgument},
		"block":             {change(func(r *client.Create) { r.Access = []client.Access{{Mode: writer.Mode, Block: true}} }), codes.InvalidArgument},
		"unknown mode":      {change(func(r *client.Create) { r.Access = []client.Access{{}} }), codes.InvalidArgument},
		"unknown parameter": {change(func(r *client.Create) { r.Parameters = map[string]string{"typo": "x"} }), codes.InvalidArgument},
		"no range":          {change(func(r *client.Create) { r.Required, r.Limit = 2, 1 }), codes.InvalidArgument},
		"too big":           {change(func(r *client.Create) { r.Required = 1 << 60 }), codes.OutOfRange},
	} {
		_, err := c.CreateVolume(t.Context(), r.req)
		want(t, name, err, r.code)
	}
	_, err := c.Controller.CreateSnapshot(t.Context(), &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: "v"})
	want(t, "a snapshot", err, codes.Unimplemented)
	_, err = c.Controller.ListVolumes(t.Context(), &spec.ListVolumesRequest{StartingToken: "0"})
	want(t, "a foreign token", err, codes.Aborted)
	want(t, "an unknown volume", c.DeleteVolume(t.Context(), "no/../such", nil), codes.OK)
}

func TestPagesAreTheWholeList(t *testing.T) {
	c := serve(t, t.TempDir())
	for i := range 7 {
		create(t, c, fmt.Sprint(i), writer)
	}
	for size := range int32(8) {
		var ids []string
		token := ""
		for range 10 {
			page, err := c.Controller.ListVolumes(t.Context(), &spec.ListVolumesRequest{MaxEntries: size, StartingToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Entries {
				ids = append(ids, e.Volume.VolumeId)
			}
			if token = page.NextToken; token == "" {
				break
			}
		}
		if slices.Sort(ids); len(slices.Compact(ids)) != 7 {
			t.Errorf("pages of %d give %q", size, ids)
		}
	}
}

func TestTwoProcessesOneStateDir(t *testing.T) {
	state := t.TempDir()
	serve(t, state)
	d, err := hostpath.New(hostpath.Config{NodeID: "n1", StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	if err := csi.Serve(t.Context(), filepath.Join(t.TempDir(), "b.sock"), d, nil); !errors.Is(err, csi.ErrAlreadyExists) {
		t.Errorf("a second driver on one state directory: %v", err)
	}
}

func TestStats(t *testing.T) {
	c, dir := serve(t, t.TempDir()), place(t)
	v := create(t, c, "stats", writer)
	u := stage(t, c, v, dir, writer)
	target := filepath.Join(dir, "t")
	want(t, "publish", c.NodePublish(t.Context(), u, target, false), codes.OK)
	if err := os.WriteFile(filepath.Join(target, "f"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := c.Node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: target})
	if err != nil {
		t.Fatal(err)
	}
	if b := st.Usage[0]; b.Total != 1<<20 || b.Used < 64<<10 || b.Used+b.Available > b.Total {
		t.Errorf("usage %v", b)
	}
	_, err = c.Node.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: dir})
	want(t, "stats elsewhere", err, codes.NotFound)
	want(t, "unpublish", c.NodeUnpublish(t.Context(), v.VolumeId, target), codes.OK)
	want(t, "unstage", c.NodeUnstage(t.Context(), v.VolumeId, u.StagingPath), codes.OK)
}

// BenchmarkLife measures what a volume costs, from CreateVolume to DeleteVolume.
func BenchmarkLife(b *testing.B) {
	c, dir := serve(b, b.TempDir()), place(b)
	took := map[string][]time.Duration{}
	step := func(name string, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		took[name] = append(took[name], time.Since(start))
	}
	for i := 0; b.Loop(); i++ {
		var v *spec.Volume
		step("create", func() (err error) {
			v, err = c.CreateVolume(b.Context(), client.Create{Name: fmt.Sprint(i), Access: []client.Access{writer}})
			return err
		})
		u := client.Use{VolumeID: v.VolumeId, StagingPath: filepath.Join(dir, "s"), Access: writer}
		if err := os.MkdirAll(u.StagingPath, 0o750); err != nil {
			b.Fatal(err)
		}
		target := filepath.Join(dir, "t")
		step("stage", func() error { return c.NodeStage(b.Context(), u) })
		step("publish", func() error { return c.NodePublish(b.Context(), u, target, false) })
		step("unpublish", func() error { return c.NodeUnpublish(b.Context(), v.VolumeId, target) })
		step("unstage", func() error { return c.NodeUnstage(b.Context(), v.VolumeId, u.StagingPath) })
		step("delete", func() error { return c.DeleteVolume(b.Context(), v.VolumeId, nil) })
	}
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-p50-µs")
	}
}
