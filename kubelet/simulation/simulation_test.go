package simulation_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain adds the flags with which lives are chosen.
func TestMain(m *testing.M) {
	flag.Uint64("seed", 0, "the life that TestOneLife runs, and the first of TestLives")
	flag.Uint64("lives", 0, "how many lives TestLives runs; zero is its own choice")
	debug.SetGCPercent(800) // a life needs little memory, and a third of its time would be collecting it
	os.Exit(m.Run())
}

func number(name string) uint64 {
	return flag.Lookup(name).Value.(flag.Getter).Get().(uint64)
}

// TestOneLife repeats the life of a seed; with -v it prints its diary.
func TestOneLife(t *testing.T) {
	l := live(t, number("seed"), nil)
	t.Log("\n" + strings.Join(l.diary, "\n"))
	if len(l.broken) > 0 {
		t.Error(l.report())
	}
}

// TestLives runs many lives, as many at a time as there are processors. Without a choice
// of how many it runs fewer where they take long.
func TestLives(t *testing.T) {
	lives, enough := number("lives"), 3*time.Minute
	switch {
	case lives > 0:
		enough = math.MaxInt64
	case testing.Short(), raceEnabled:
		lives = 1000
	default:
		lives = 20000
	}
	first := number("seed")
	var next atomic.Uint64
	begun := time.Now()
	for lane := range goruntime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			for n := next.Add(1); n <= lives; n = next.Add(1) {
				if time.Since(begun) > enough {
					t.Logf("there was no time for life %d of %d", n, lives)
					break
				}
				if l := live(t, first+n-1, nil); len(l.broken) > 0 {
					t.Error(l.report())
				}
			}
		})
	}
}

// TestSeeds runs the lives that once broke a rule. A seed is taken out when the
// simulation has changed so much that it does not reach the fault any more, and only
// if another that does takes its place.
func TestSeeds(t *testing.T) {
	for what, seed := range map[string]uint64{
		"a container of unknown state, then removed, was taken for one that never ran": 120,
		"a restart count was lost with the record of an instance that never ran":       37,
		"a Pod beyond its deadline succeeded":                                          1917,
		"a container was started beside a running one that an older record hid":        578,
		"a late record of a create let a restart skip its back-off":                    3841,
		"what went between two lists was missed for ever":                              9107,
		"what went between two lists was missed for ever, with lost events":            12947,
		"a sandbox that came while its Pod was taken away was left":                    16213,
		"an init container ran again after a restart, for the seconds of a status":     37241,
		"an init container did not run again in a sandbox of the same second":          6509,
		"an end without grace was ignored because the grace was over":                  11882,
		"a late record of a create hid an instance that ran":                           37027,
		"a status whose recording failed was forgotten, and its phase taken back":      32444,
		"a stray sandbox was forgotten because the runtime was down":                   58460,
		"a sandbox was made beside one that a late and dead one hid":                   130938,
		"creates that came late pushed out the instance that the back-off is from":     315431,
	} {
		t.Run(what, func(t *testing.T) {
			if l := live(t, seed, nil); len(l.broken) > 0 {
				t.Error(l.report())
			}
		})
	}
}

// TestLivesRepeat shows that a seed is a life: twice the same diary, but for the
// order of what happens side by side at one instant.
func TestLivesRepeat(t *testing.T) {
	for seed := range uint64(200) {
		first, second := live(t, seed, nil).diary, live(t, seed, nil).diary
		slices.Sort(first)
		slices.Sort(second)
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("life %d went differently the second time (-first +second):\n%s", seed, diff)
		}
	}
}
