package simulation_test

import (
	"hash/fnv"
	"math"
	"strconv"
	"sync"
	"time"
)

// dice decides everything in a life that is left to chance. Each key has its own
// stream, so that goroutines which run at one instant do not take each other's
// numbers. Safe for concurrent use.
type dice struct {
	seed  uint64
	mu    sync.Mutex
	drawn map[string]uint64
}

func newDice(seed uint64) *dice { return &dice{seed: seed, drawn: map[string]uint64{}} }

// number returns the key's next number.
func (d *dice) number(key string) uint64 {
	d.mu.Lock()
	n := d.drawn[key]
	d.drawn[key] = n + 1
	d.mu.Unlock()
	h := fnv.New64a()
	h.Write(strconv.AppendUint([]byte(key), n, 10))
	x := h.Sum64() ^ d.seed*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // the finalizer of SplitMix64
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fraction returns a number in [0, 1).
func (d *dice) fraction(key string) float64 { return float64(d.number(key)>>11) / (1 << 53) }

// chance is true with probability p.
func (d *dice) chance(key string, p float64) bool { return p > 0 && d.fraction(key) < p }

// upTo returns one of 0 to n-1.
func (d *dice) upTo(key string, n int) int { return int(d.number(key) % uint64(n)) }

// spread returns a duration between the two, short ones as likely as long ones:
// 1 to 10 ms as likely as 1 to 10 s. lo must be above zero.
func (d *dice) spread(key string, lo, hi time.Duration) time.Duration {
	return time.Duration(float64(lo) * math.Pow(float64(hi)/float64(lo), d.fraction(key)))
}

// pick returns one of the choices.
func pick[T any](d *dice, key string, choices ...T) T { return choices[d.upTo(key, len(choices))] }
