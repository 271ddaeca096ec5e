package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/mount"
	"github.com/nodekit-project/nodekit/csi/store"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/volume"
)

const driverName = "dir.csi.example.com"

// serve runs a driver whose volumes are directories, staged and published as
// bind mounts, and returns its socket and its data directory.
func serve(t *testing.T, change func(*csi.Driver)) (socket, data string) {
	t.Helper()
	dir := t.TempDir()
	socket, data = filepath.Join(dir, "csi.sock"), filepath.Join(dir, "data")
	path := func(id string) string { return filepath.Join(data, id) }
	vols := store.New(filepath.Join(dir, "volumes"), store.Backend{
		Make:   func(_ context.Context, v *store.Volume) error { return os.MkdirAll(path(v.ID), 0o777) },
		Remove: func(_ context.Context, v *store.Volume) error { return os.RemoveAll(path(v.ID)) },
	}, nil)
	d := &csi.Driver{
		Name: driverName, Version: "1", NodeID: "n1", StateDir: dir,
		Recover: vols.Recover, CreateVolume: vols.Create, DeleteVolume: vols.Delete, GetVolume: vols.Get,
		StageVolume: func(_ context.Context, r *csi.StageRequest) error {
			return mount.Stage(path(r.VolumeID), r.StagingPath)
		},
		UnstageVolume: func(_ context.Context, r *csi.UnstageRequest) error { return mount.Unstage(r.StagingPath) },
		PublishVolume: func(ctx context.Context, r *csi.PublishRequest) error {
			if r.Ephemeral() {
				if err := vols.MakeEphemeral(ctx, r.VolumeID); err != nil {
					return err
				}
			}
			return mount.Publish(path(r.VolumeID), r.TargetPath, r.ReadOnly)
		},
		UnpublishVolume: func(ctx context.Context, r *csi.UnpublishRequest) error {
			if err := mount.Unpublish(r.TargetPath); err != nil {
				return err
			}
			if v, err := vols.Find(r.VolumeID); err == nil && v.Ephemeral {
				return vols.Delete(ctx, &csi.DeleteRequest{VolumeID: r.VolumeID})
			}
			return nil
		},
	}
	if change != nil {
		change(d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- csi.Serve(ctx, socket, d, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	waitFor(t, "the driver", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return socket, data
}

func claim(name string) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-1"},
		Spec: v1.PersistentVolumeClaimSpec{
			AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources:   v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}
}

func usesClaim(name string) v1.Volume {
	return v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

func TestClaimLives(t *testing.T) {
	w := newWorld(t, claim("c"))
	socket, data := serve(t, nil)
	a, b := newPod("ua", usesClaim("c")), newPod("ub", usesClaim("c"))
	if _, err := w.Mount(t.Context(), a); pod.Waiting(err) == nil {
		t.Fatalf("without a driver: %v", err)
	}
	w.register(driverName, socket)
	select {
	case <-w.Changed():
	default:
		t.Error("Changed has nothing after a registration")
	}
	v := w.mount(a)
	if got := w.since(); got != "CreateVolume NodeStageVolume NodePublishVolume" {
		t.Errorf("the first pod's calls: %s", got)
	}
	if err := os.WriteFile(filepath.Join(v["data"].HostPath, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	vb := w.mount(b)
	if got := w.since(); got != "NodePublishVolume" {
		t.Errorf("the second pod's calls: %s", got)
	}
	if got := read(t, filepath.Join(vb["data"].HostPath, "f")); got != "kept" {
		t.Errorf("the second pod reads %q", got)
	}
	w.restart() // with no driver registered: what is mounted stays usable
	w.mount(a)
	if err := w.Unmount(t.Context(), "ua"); pod.Waiting(err) == nil {
		t.Errorf("unmounting without the driver: %v", err)
	}
	w.register(driverName, socket)
	w.gone("ua")
	if got := w.since(); got != "NodeUnpublishVolume" {
		t.Errorf("the first pod's end: %s", got)
	}
	if err := w.DeleteClaim(t.Context(), claim("c")); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("deleting a claim in use: %v", err)
	}
	w.gone("ub")
	if got := w.since(); got != "NodeUnpublishVolume NodeUnstageVolume" {
		t.Errorf("the second pod's end: %s", got)
	}
	var pv v1.PersistentVolume
	if err := w.objects.Get(t.Context(), "", "pvc-uid-1", &pv); err != nil || pv.Spec.ClaimRef.Name != "c" {
		t.Errorf("the PersistentVolume: %v, %v", pv.Spec.ClaimRef, err)
	}
	for range 2 {
		if err := w.DeleteClaim(t.Context(), claim("c")); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(data); len(left) != 0 {
		t.Errorf("the driver still has %v", left)
	}
	if len(w.objects.by) != 0 {
		t.Errorf("objects left: %v", w.objects.by)
	}
	w.emptyRoot()
}

// TestVolumeThatTheDriverKeeps: the error names what is left mounted and how to free it,
// after which the next try goes on.
func TestVolumeThatTheDriverKeeps(t *testing.T) {
	w := newWorld(t, claim("c"))
	hangs, leaks := true, true
	socket, _ := serve(t, func(d *csi.Driver) {
		unstage := d.UnstageVolume
		d.UnstageVolume = func(ctx context.Context, r *csi.UnstageRequest) error {
			switch {
			case hangs:
				return fault.Aborted.Errorf("an operation is going on")
			case leaks:
				return nil
			}
			return unstage(ctx, r)
		}
	})
	w.register(driverName, socket)
	w.mount(newPod("ua", usesClaim("c")))
	staging := regexp.MustCompile(`"(/[^"]*/globalmount)" with driver .* end the driver and start it again`)
	err := w.Unmount(t.Context(), "ua")
	if err == nil || !staging.MatchString(err.Error()) {
		t.Fatalf("a driver that is busy: %v", err)
	}
	path := staging.FindStringSubmatch(err.Error())[1]
	hangs = false
	if err := w.Unmount(t.Context(), "ua"); err == nil || !strings.Contains(err.Error(), "umount "+path) {
		t.Fatalf("a driver that leaks: %v", err)
	}
	if err := mount.Unstage(path); err != nil { // as umount does
		t.Fatal(err)
	}
	w.gone("ua")
}

// TestClaimOfTheSameName has a claim end after another of its name was created
// and got its volume: that one keeps it.
func TestClaimOfTheSameName(t *testing.T) {
	first, second := claim("c"), claim("c")
	second.UID = "uid-2"
	w := newWorld(t, first)
	socket, data := serve(t, nil)
	w.register(driverName, socket)
	w.mount(newPod("ua", usesClaim("c")))
	w.gone("ua")
	w.objects.replace(second)
	v := w.mount(newPod("ub", usesClaim("c")))
	if err := os.WriteFile(filepath.Join(v["data"].HostPath, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.gone("ub")
	for range 2 {
		if err := w.DeleteClaim(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(data); len(left) != 1 {
		t.Errorf("the driver has %v, want the second claim's volume", left)
	}
	v = w.mount(newPod("uc", usesClaim("c")))
	if got := read(t, filepath.Join(v["data"].HostPath, "f")); got != "kept" {
		t.Errorf("the second claim's volume has %q", got)
	}
	w.gone("uc")
	if err := w.DeleteClaim(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	w.emptyRoot()
}

// emptyRoot checks that no file is left below the root.
func (w *world) emptyRoot() {
	w.t.Helper()
	err := filepath.WalkDir(w.root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			w.t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

func TestInlineVolume(t *testing.T) {
	w := newWorld(t)
	socket, data := serve(t, nil)
	w.register(driverName, socket)
	p := newPod("ui", v1.Volume{Name: "scratch", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName}}})
	v := w.mount(p)
	if err := os.WriteFile(filepath.Join(v["scratch"].HostPath, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.since(); got != "NodePublishVolume" {
		t.Errorf("calls: %s", got)
	}
	w.gone("ui")
	if left, _ := os.ReadDir(data); len(left) != 0 {
		t.Errorf("the driver still has %v", left)
	}
	w.emptyRoot()
}

// TestUncertainCreateDoesNotLeak lets CreateVolume make the volume and lose the
// answer; the objects are gone when the claim is deleted.
func TestUncertainCreateDoesNotLeak(t *testing.T) {
	w := newWorld(t, claim("c"))
	lose := true
	socket, data := serve(t, func(d *csi.Driver) {
		create := d.CreateVolume
		d.CreateVolume = func(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
			v, err := create(ctx, r)
			if lose {
				return nil, csi.ErrUnavailable.Errorf("the answer is lost")
			}
			return v, err
		}
	})
	w.register(driverName, socket)
	if _, err := w.Mount(t.Context(), newPod("ua", usesClaim("c"))); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("mounting: %v", err)
	}
	if made, _ := os.ReadDir(data); len(made) != 1 {
		t.Fatalf("the driver has %v", made)
	}
	w.restart()
	w.register(driverName, socket)
	w.objects.by = map[string]volume.Object{}
	lose = false
	w.gone("ua")
	if err := w.DeleteClaim(t.Context(), claim("c")); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(data); len(left) != 0 {
		t.Errorf("leaked %v", left)
	}
	w.emptyRoot()
}

// TestPublishThatFailsIsUndone has a driver that mounts and then reports an
// error, final and not.
func TestPublishThatFailsIsUndone(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Internal, fault.Unavailable} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, claim("c"))
			socket, data := serve(t, func(d *csi.Driver) {
				publish := d.PublishVolume
				d.PublishVolume = func(ctx context.Context, r *csi.PublishRequest) error {
					return errors.Join(publish(ctx, r), kind.Errorf("after the mount"))
				}
			})
			w.register(driverName, socket)
			if _, err := w.Mount(t.Context(), newPod("ua", usesClaim("c"))); !errors.Is(err, kind) {
				t.Fatalf("mounting: %v", err)
			}
			w.restart()
			w.register(driverName, socket)
			w.gone("ua")
			if err := w.DeleteClaim(t.Context(), claim("c")); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(data); len(left) != 0 {
				t.Errorf("leaked %v", left)
			}
		})
	}
}

// TestRepublishKeepsWhatThePodDid holds that a volume which is published again
// for its content is not given to the fsGroup again: the Pod may have changed
// modes since.
func TestRepublishKeepsWhatThePodDid(t *testing.T) {
	w := newWorld(t, &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: driverName},
		Spec: storagev1.CSIDriverSpec{
			RequiresRepublish: ptr(true), PodInfoOnMount: ptr(true), FSGroupPolicy: ptr(storagev1.FileFSGroupPolicy), AttachRequired: ptr(false),
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
		},
	})
	socket, _ := serve(t, nil)
	w.register(driverName, socket)
	p := newPod("ua", v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(4242))}
	v := w.mount(p)["v"]
	if v.Refresh == 0 {
		t.Error("nobody is told to publish it again")
	}
	file := filepath.Join(v.HostPath, "f")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.since()
	w.mount(p)
	if got := w.since(); got != "NodePublishVolume" {
		t.Errorf("the second time: %s", got)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the Pod's file has mode %v (%v)", fi.Mode(), err)
	}
	w.gone("ua")
}

// TestFailureIsNotHiddenByAWait has a Pod with two volumes, one of which waits
// and one of which fails: the failure is what a person must see.
func TestFailureIsNotHiddenByAWait(t *testing.T) {
	w := newWorld(t, claim("c"))
	socket, _ := serve(t, func(d *csi.Driver) {
		d.PublishVolume = func(context.Context, *csi.PublishRequest) error { return fault.Internal.Errorf("the disk is on fire") }
	})
	w.register(driverName, socket)
	_, err := w.Mount(t.Context(), newPod("ua", usesClaim("c"),
		v1.Volume{Name: "w", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "nope"}}}))
	if err == nil || pod.Waiting(err) != nil {
		t.Errorf("got %v, want the driver's failure", err)
	}
	w.gone("ua")
}
