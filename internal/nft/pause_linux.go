package nft

import (
	"math/rand/v2"
	"time"
)

// Others may change rulesets all the time, as Service proxies do: many callers that
// retry at once would keep each other from succeeding.

// Bounds of pauses.
const (
	leastPause = 50 * time.Microsecond
	mostPause  = 10 * time.Millisecond
)

// pause returns how long to wait before the given try, where 1 is the first retry: a
// random time whose upper bound doubles with each try, up to mostPause.
func pause(try int) time.Duration {
	longest := leastPause << min(try, 10)
	return leastPause + rand.N(min(longest, mostPause)-leastPause)
}
