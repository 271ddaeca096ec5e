package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/store"
)

// backend keeps a directory per volume and can be told to fail.
type backend struct {
	dir  string
	fail error
}

func (b *backend) store(t *testing.T) *store.Store {
	t.Helper()
	s := store.New(filepath.Join(b.dir, "records"), store.Backend{Make: b.make, Remove: b.remove, Parameters: []string{"p"}}, nil)
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *backend) make(_ context.Context, v *store.Volume) error {
	return errors.Join(os.MkdirAll(filepath.Join(b.dir, "data", v.ID), 0o700), b.fail)
}

func (b *backend) remove(_ context.Context, v *store.Volume) error {
	return os.RemoveAll(filepath.Join(b.dir, "data", v.ID))
}

func (b *backend) made(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(b.dir, "data", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func request(name string, required int64) *csi.CreateRequest {
	return &csi.CreateRequest{Name: name, Required: required, Capabilities: []csi.Capability{{Access: csi.SingleNodeWriter}}}
}

func TestNames(t *testing.T) {
	b := &backend{dir: t.TempDir()}
	s := b.store(t)
	v, err := s.Create(t.Context(), request("n", 10))
	if err != nil {
		t.Fatal(err)
	}
	s = b.store(t) // as after a restart
	again, err := s.Create(t.Context(), request("n", 10))
	if err != nil || again.ID != v.ID || again.Capacity != 10 {
		t.Errorf("again: %+v, %v", again, err)
	}
	other := request("n", 10)
	other.Capabilities[0].Access = csi.MultiNodeMultiWriter
	withParameter := request("n", 10)
	withParameter.Parameters = map[string]string{"p": "x"}
	for name, r := range map[string]*csi.CreateRequest{"size": request("n", 11), "capability": other, "parameter": withParameter} {
		if _, err := s.Create(t.Context(), r); !errors.Is(err, csi.ErrAlreadyExists) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for range 2 {
		if err := s.Delete(t.Context(), &csi.DeleteRequest{VolumeID: v.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Find(v.ID); !errors.Is(err, csi.ErrNotFound) || b.made(t) != 0 {
		t.Errorf("after the deletion: %v, %d", err, b.made(t))
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	b := &backend{dir: t.TempDir(), fail: errors.New("no")}
	s := b.store(t)
	if _, err := s.Create(t.Context(), request("n", 1)); err == nil || b.made(t) != 0 {
		t.Errorf("%v, %d", err, b.made(t))
	}
	b.fail = nil
	if _, err := s.Create(t.Context(), request("n", 1)); err != nil {
		t.Error(err)
	}
}

// TestHalfMadeVolumesGo kills the process, in effect, inside Make.
func TestHalfMadeVolumesGo(t *testing.T) {
	b := &backend{dir: t.TempDir()}
	s := store.New(filepath.Join(b.dir, "records"), store.Backend{
		Make:   func(ctx context.Context, v *store.Volume) error { _ = b.make(ctx, v); panic("killed") },
		Remove: b.remove,
	}, nil)
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = s.Create(t.Context(), request("n", 1))
	}()
	if b.made(t) != 1 {
		t.Fatal("nothing was half made")
	}
	if list, err := b.store(t).List(t.Context()); err != nil || len(list) != 0 || b.made(t) != 0 {
		t.Errorf("after recovery: %v, %v, %d", list, err, b.made(t))
	}
}

func TestUnreadStoreSaysSo(t *testing.T) {
	s := store.New(t.TempDir(), store.Backend{}, nil)
	if _, err := s.Create(t.Context(), request("n", 1)); !errors.Is(err, csi.ErrInternal) {
		t.Error(err)
	}
	if _, err := s.List(t.Context()); !errors.Is(err, csi.ErrInternal) {
		t.Error(err)
	}
}

// TestHalfDeletedVolumesAreGone: what could not be removed is no volume any more,
// neither for who looks nor for who asks for it again.
func TestHalfDeletedVolumesAreGone(t *testing.T) {
	b := &backend{dir: t.TempDir()}
	stuck := errors.New("device or resource busy")
	s := store.New(filepath.Join(b.dir, "records"), store.Backend{Make: b.make, Remove: func(ctx context.Context, v *store.Volume) error {
		return errors.Join(b.remove(ctx, v), stuck)
	}}, nil)
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := s.Create(t.Context(), request("n", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MakeEphemeral(t.Context(), "e"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), &csi.DeleteRequest{VolumeID: v.ID}); !errors.Is(err, stuck) {
		t.Errorf("deleting: %v", err)
	}
	if err := s.RemoveEphemeral(t.Context(), "e"); !errors.Is(err, stuck) {
		t.Errorf("removing the ephemeral one: %v", err)
	}
	for _, id := range []string{v.ID, "e"} {
		if _, err := s.Find(id); !errors.Is(err, csi.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Errorf("one volume that is stuck keeps the driver from starting: %v", err)
	}
	stuck = nil
	if err := s.MakeEphemeral(t.Context(), "e"); err != nil || b.made(t) != 1 {
		t.Errorf("making it again: %v, %d", err, b.made(t))
	}
	for range 2 {
		if err := errors.Join(s.RemoveEphemeral(t.Context(), "e"), s.Delete(t.Context(), &csi.DeleteRequest{VolumeID: v.ID})); err != nil || b.made(t) != 0 {
			t.Errorf("once it works: %v, %d", err, b.made(t))
		}
	}
}
