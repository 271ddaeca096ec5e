package hostlocal_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
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
			for b.Loop() {
				p.add("x")
				p.del("x")
			}
		})
	}
}

// BenchmarkNearlyFull has one free address in 65,000.
func BenchmarkNearlyFull(b *testing.B) {
	p := newPool(b, `[[{"subnet":"10.0.0.0/16","rangeStart":"10.0.0.255","rangeEnd":"10.0.253.231"}]]`)
	p.fill(65_000 - 256)
	p.add("first")
	for b.Loop() {
		p.add("x")
		p.del("x")
	}
}
