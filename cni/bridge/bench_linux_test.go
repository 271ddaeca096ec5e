package bridge_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// both runs a benchmark with the plugin for one call and with that for a process
// that stays.
func both(b *testing.B, fn func(b *testing.B, n *network)) {
	b.Run("Plugin", func(b *testing.B) { fn(b, newNetwork(b, nil)) })
	b.Run("Resident", func(b *testing.B) {
		n := newNetwork(b, nil)
		plugin, stop := bridge.Resident()
		n.plugins["bridge"] = plugin
		b.Cleanup(func() {
			if err := stop(); err != nil {
				b.Error(err)
			}
		})
		fn(b, n)
	})
}

// report replaces the mean, which a busy machine spoils.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	for name, d := range map[string]time.Duration{"min-ms": took[0], "p50-ms": took[len(took)/2], "max-ms": took[len(took)-1]} {
		b.ReportMetric(float64(d)/1e6, name)
	}
}

// BenchmarkAdd adds containers to a bridge that has few, each in a namespace of
// its own, which then goes.
func BenchmarkAdd(b *testing.B) {
	both(b, func(b *testing.B, n *network) {
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			ns, id := netnstest.New(b), fmt.Sprintf("add%d", i)
			began := time.Now()
			n.add(id, ns)
			took = append(took, time.Since(began))
			if err := netns.Remove(ns); err != nil {
				b.Fatal(err)
			}
			n.del(id, ns)
			time.Sleep(60 * time.Millisecond) // the kernel is still removing the namespace
		}
		report(b, took)
	})
}

func BenchmarkDel(b *testing.B) {
	both(b, func(b *testing.B, n *network) {
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			ns, id := netnstest.New(b), fmt.Sprintf("del%d", i)
			n.add(id, ns)
			began := time.Now()
			n.del(id, ns)
			took = append(took, time.Since(began))
			if err := netns.Remove(ns); err != nil {
				b.Fatal(err)
			}
			time.Sleep(60 * time.Millisecond)
		}
		report(b, took)
	})
}

// BenchmarkHundred adds and deletes 100 containers at once.
func BenchmarkHundred(b *testing.B) {
	both(b, func(b *testing.B, n *network) {
		const many = 100
		spaces := make([]string, many)
		for i := range spaces {
			spaces[i] = netnstest.New(b)
		}
		var adds, dels []time.Duration
		for b.Loop() {
			adds = append(adds, n.hundred(spaces, "ADD"))
			dels = append(dels, n.hundred(spaces, "DEL"))
			time.Sleep(100 * time.Millisecond)
		}
		slices.Sort(dels)
		report(b, adds)
		b.ReportMetric(float64(dels[len(dels)/2])/1e6, "del-p50-ms")
	})
}

func (n *network) hundred(spaces []string, command string) time.Duration {
	began := time.Now()
	var wg sync.WaitGroup
	for i, ns := range spaces {
		wg.Go(func() {
			if out, err := n.call(command, fmt.Sprintf("c%d", i), ns, nil); err != nil {
				n.t.Errorf("%s: %v: %s", command, err, out)
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}
