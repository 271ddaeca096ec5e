package worker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGraceAndTheWallClock has the wall clock set while a Pod ends: times that the
// API wrote by it are far off then.
func TestGraceAndTheWallClock(t *testing.T) {
	type told struct {
		after time.Duration // since the first
		step  time.Duration // how far the clock that wrote it is ahead
		grace int64
	}
	for name, c := range map[string]struct {
		told []told
		want time.Duration // from the first
		last bool          // the last of them tells who waits
	}{
		"nobody sets it":                       {[]told{{0, 0, 30}}, 30 * time.Second, true},
		"half of it is over":                   {[]told{{0, -15 * time.Second, 30}}, 15 * time.Second, true},
		"set back an hour before":              {[]told{{0, time.Hour, 30}}, 30 * time.Second, true},
		"set back while it runs":               {[]told{{0, 0, 300}, {time.Second, time.Hour, 300}}, 300 * time.Second, false},
		"set forward while it runs":            {[]told{{0, 0, 300}, {time.Second, -time.Hour, 300}}, 300 * time.Second, false},
		"set back, and it shrinks":             {[]told{{0, 0, 300}, {time.Second, time.Hour, 5}}, 6 * time.Second, true},
		"set back, and it shall grow":          {[]told{{0, 0, 30}, {time.Second, -time.Hour, 60}}, 30 * time.Second, false},
		"it shrinks to more than what is left": {[]told{{0, 0, 30}, {20 * time.Second, 0, 25}}, 30 * time.Second, true},
		"none, when the rest is over":          {[]told{{0, 0, 1}, {2 * time.Second, time.Hour, 0}}, time.Second, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, begun := newGraceClock(), time.Now()
			for i, m := range c.told {
				time.Sleep(time.Until(begun.Add(m.after)))
				changed := g.changed()
				over := time.Now().Add(m.step + time.Duration(m.grace)*time.Second)
				g.set(over.Round(0), &m.grace) // without a monotonic reading, as it comes from the API
				synctest.Wait()
				select {
				case <-changed:
					if i == len(c.told)-1 && !c.last {
						t.Errorf("%s: who waits is told although nothing changed", name)
					}
				default:
					if i == len(c.told)-1 && c.last {
						t.Errorf("%s: who waits is not told", name)
					}
				}
			}
			over, force := g.get()
			if got := over.Sub(begun); got.Round(time.Second) != c.want.Round(time.Second) {
				t.Errorf("%s: over after %s, want %s", name, got, c.want)
			}
			if want := c.told[len(c.told)-1].grace == 0; force != want {
				t.Errorf("%s: force is %v", name, force)
			}
		})
	}
	g, grace := newGraceClock(), int64(30)
	g.set(time.Now().Add(30*time.Second).Round(0), &grace)
	if over, _ := g.get(); !strings.Contains(over.String(), "m=") {
		t.Errorf("%s has no monotonic reading, so it moves with the wall clock", over)
	}
}
