package layer_test

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestGuardCounts: what is at the limits is accepted, and nothing beyond them.
func TestGuardCounts(t *testing.T) {
	g := layer.NewGuard(layer.Limits{Bytes: 10, Entries: 3})
	for i, step := range []struct {
		size int64
		want bool
	}{{4, true}, {7, false}, {6, true}, {0, false}} {
		ok, err := g.Accept(&tar.Header{Size: step.size})
		if ok != step.want || !ok && !errors.Is(err, fault.Invalid) {
			t.Errorf("header %d with %d bytes: %v, %v", i, step.size, ok, err)
		}
	}
	if ok, err := layer.NewGuard(layer.Limits{Bytes: 10, Entries: 3}).Accept(&tar.Header{Size: -1}); ok || !errors.Is(err, fault.Invalid) {
		t.Errorf("a size below zero: %v, %v", ok, err)
	}
}

// TestReaderIsBounded: a stream that never ends does.
func TestReaderIsBounded(t *testing.T) {
	const want = 10 + 3<<10 // the bytes, and room for each header
	g := layer.NewGuard(layer.Limits{Bytes: 10, Entries: 3})
	n, err := io.Copy(io.Discard, g.Reader(endless{}))
	if n < want || n > want+64<<10 || !errors.Is(err, fault.Invalid) {
		t.Errorf("%d bytes, %v; want no more than a buffer beyond %d", n, err, want)
	}
	text, err := io.ReadAll(g.Reader(strings.NewReader("0123456789")))
	if string(text) != "0123456789" || err != nil {
		t.Errorf("a short one: %q, %v", text, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestAttributes: an overlay's own are known in both of their places, and taken away.
func TestAttributes(t *testing.T) {
	for name, want := range map[string]struct{ own, elsewhere bool }{
		"trusted.overlay.redirect":         {true, true},
		"user.overlay.metacopy":            {true, false},
		"trusted.overlay.opaque":           {true, false},
		"trusted.overlay.overlay.redirect": {true, false}, // of one that is inside
		"trusted.overlays":                 {false, false},
		"user.color":                       {false, false},
		"security.overlay.redirect":        {false, false},
		"security.capability":              {false, false},
	} {
		h := &tar.Header{PAXRecords: map[string]string{layer.PAXPrefix + name: "x"}}
		if _, err := layer.NewGuard(layer.Limits{Entries: 1}).Accept(h); err != nil {
			t.Fatal(err)
		}
		gone := len(h.PAXRecords) == 0
		if layer.OfOverlay(name) != want.own || gone != want.own || layer.Elsewhere(name) != want.elsewhere {
			t.Errorf("%s: of overlay %v, taken away %v, elsewhere %v; want %+v", name, layer.OfOverlay(name), gone, layer.Elsewhere(name), want)
		}
	}
}
