package registry

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/nodekit-project/nodekit/cri/oci/image/registry/hosts"
)

// TestTryWhileOthersDo: whether a place was of use changes while somebody else looks for one,
// as layers are fetched at the same time. It is asked all the same.
func TestTryWhileOthersDo(t *testing.T) {
	ref, err := name.ParseReference("registry.example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{host: hosts.Origin()}
	p := &places{ref: ref, opts: Options{Logger: slog.New(slog.DiscardHandler)}, all: []*endpoint{e}}
	ctx, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			e.down.Store(true)
			e.down.Store(false)
		}
	})
	for range 1_000_000 {
		if err := p.try(ctx, canPull, func(*endpoint) error { return nil }); err != nil {
			t.Error(err)
			break
		}
	}
	done()
	wg.Wait()
}
