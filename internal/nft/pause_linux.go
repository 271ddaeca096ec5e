package nft

import (
	"math/rand/v2"
	"time"
)

// Others may change rulesets all the time, as proxies of Services do: who tries
// again at once, and many at once, keep all of them from coming through.

// The bounds of pauses.
const (
	leastPause = 50 * time.Microsecond
	mostPause  = 10 * time.Millisecond
)

// pause returns how long to wait before the try of that number, of which 1 is the
// first repetition: at random, and up to twice as long each time.
func pause(try int) time.Duration {
	longest := leastPause << min(try, 10)
	return leastPause + rand.N(min(longest, mostPause)-leastPause)
}
