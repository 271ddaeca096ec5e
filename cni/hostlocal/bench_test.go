package hostlocal_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// fill writes reservations as upstream's plugin does, from 10.0.1.0 on.
func (p *pool) fill(n int) {
	p.t.Helper()
	dir := filepath.Join(p.dir, "n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	a := netip.MustParseAddr("10.0.1.0")
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, a.String()), fmt.Appendf(nil, "other%d\r\neth0", i), 0o600); err != nil {
			p.t.Fatal(err)
		}
		a = a.Next()
	}
	if err := os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), []byte(a.String()), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// BenchmarkAddDel is an ADD and a DEL beside so many reservations.
func BenchmarkAddDel(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newPool(b, `[[{"subnet":"10.0.0.0/8"}]]`)
			p.fill(n)
			p.add("first")
			measure(b, p)
		})
	}
}

// BenchmarkNearlyFull has one free address in 65,000.
func BenchmarkNearlyFull(b *testing.B) {
	p := newPool(b, `[[{"subnet":"10.0.0.0/16","rangeStart":"10.0.0.255","rangeEnd":"10.0.253.231"}]]`)
	p.fill(65_000 - 256)
	p.add("first")
	measure(b, p)
}

// measure reports the medians of an ADD and of a DEL.
func measure(b *testing.B, p *pool) {
	var took [2][]time.Duration
	for b.Loop() {
		for i, call := range []func(){func() { p.add("x") }, func() { p.del("x") }} {
			start := time.Now()
			call()
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i, unit := range []string{"ms-add-p50", "ms-del-p50"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, unit)
	}
}
