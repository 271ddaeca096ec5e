package leak_test

import (
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// BenchmarkTake takes what the suites take before and after nearly every rule.
func BenchmarkTake(b *testing.B) {
	testenv.Require(b, testenv.Root)
	ns := filepath.Join(b.TempDir(), "ns")
	if err := netns.Create(ns); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := netns.Remove(ns); err != nil {
			b.Error(err)
		}
	})
	for _, kind := range []leak.Kind{leak.Sysctl, leak.Process, leak.Link, leak.Address, leak.NFT, leak.Route, leak.Rule, leak.Mount} {
		b.Run(string(kind), func(b *testing.B) {
			for b.Loop() {
				err := netns.Do(ns, func() error {
					_, err := leak.Take(leak.Scope{Kinds: []leak.Kind{kind}, Marker: ns, MarkedOnly: true})
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
