package image_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestPin(t *testing.T) {
	dir := t.TempDir()
	s, other := open(t, dir, nil), open(t, dir, nil)
	images := map[string]v1.Image{}
	for _, n := range []string{"docker.io/library/busybox:latest", "registry.example.com/infra/dns/core:v1", "example.com/app:v1"} {
		images[n] = imageOf(t, layerOf(t, file("name", n)))
	}
	if _, err := s.Load(t.Context(), dockerArchive(t, images)); err != nil {
		t.Fatal(err)
	}
	id, err := images["example.com/app:v1"].ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		patterns []string
		want     []string
	}{
		{nil, nil},
		{[]string{"busybox"}, []string{"docker.io/library/busybox:latest"}},
		{[]string{"busybox:v2", "none"}, nil},
		{[]string{"registry.example.com/infra/*"}, []string{"registry.example.com/infra/dns/core:v1"}},
		{[]string{"*/dns/*:v1", id.String()}, []string{"example.com/app:v1", "registry.example.com/infra/dns/core:v1"}},
		{[]string{id.Hex}, []string{"example.com/app:v1"}},
		{[]string{"example.com/*"}, []string{"example.com/app:v1"}},
		{[]string{"*example.com*app:v1*"}, []string{"example.com/app:v1"}},
		{[]string{"example.com/app:v1*example.com/app:v1"}, nil},
		{[]string{"*"}, slices.Sorted(maps.Keys(images))},
	} {
		if err := s.Pin(t.Context(), c.patterns); err != nil {
			t.Fatal(err)
		}
		all, err := other.List() // another process
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, im := range all {
			status, err := s.Status(t.Context(), im.Id)
			if err != nil || status.Pinned != im.Pinned {
				t.Errorf("Status says %v (%v), List %v", status, err, im)
			}
			if im.Pinned {
				got = append(got, im.RepoTags...)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q pins:\n%s", c.patterns, diff)
		}
	}
	if err := s.Pin(t.Context(), []string{"Not A Name"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Pin of what is no name: %v", err)
	}
	if err := s.Remove(t.Context(), "busybox"); err != nil {
		t.Fatal(err)
	}
	if im, err := other.Status(t.Context(), "busybox"); im != nil || err != nil {
		t.Errorf("a pinned image that was removed: %v, %v", im, err)
	}
	if im, err := other.Status(t.Context(), "example.com/app:v1"); err != nil || !im.GetPinned() {
		t.Errorf("after the removal of another the image is %v, %v; want it pinned", im, err)
	}
}
