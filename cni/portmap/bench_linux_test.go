package portmap_test

import (
	"fmt"
	"testing"

	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// BenchmarkPortmap adds and deletes an attachment with one port of both
// families, where others have none or 1,000. DEL waits for the kernel's grace
// period when its socket closes.
func BenchmarkPortmap(b *testing.B) {
	newBridge(b)
	ns := netnstest.New(b)
	for _, others := range []int{0, 1000} {
		for i := range others {
			p := bare(b, ns, fmt.Sprintf("%x", i+16), fmt.Sprintf("10.55.%d.%d", 1+i/250, 1+i%250))
			p.add(b, portmap.Mapping{HostPort: 10000 + i, ContainerPort: 80})
		}
		p := bare(b, ns, "a", "10.55.0.2")
		mapping := portmap.Mapping{HostPort: 80, ContainerPort: 80}
		b.Run(fmt.Sprintf("ADD/others=%d", others), func(b *testing.B) {
			for b.Loop() {
				p.add(b, mapping)
				b.StopTimer()
				p.del(b, mapping)
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("DEL/others=%d", others), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				p.add(b, mapping)
				b.StartTimer()
				p.del(b, mapping)
			}
		})
		b.Run(fmt.Sprintf("DEL without documents/others=%d", others), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				p.add(b, mapping)
				b.StartTimer()
				if _, err := p.call("DEL", p.document(map[string]any{"prevResult": nil, "runtimeConfig": nil})); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("DEL without mappings/others=%d", others), func(b *testing.B) {
			for b.Loop() {
				p.del(b)
			}
		})
		b.Run(fmt.Sprintf("CHECK/others=%d", others), func(b *testing.B) {
			p.add(b, mapping)
			for b.Loop() {
				if _, err := p.portmap("CHECK", mapping); err != nil {
					b.Fatal(err)
				}
			}
			p.del(b, mapping)
		})
	}
}
