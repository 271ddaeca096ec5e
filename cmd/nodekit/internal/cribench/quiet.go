package cribench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// quietFor is how long the machine must have had little to do, and quietWithin how
	// long that is waited for.
	quietFor    = 200 * time.Millisecond
	quietWithin = 5 * time.Second
	// quietShare is the share of their time for which processors must be idle.
	quietShare = 0.9
)

// quiet waits until the machine has little to do: what runtimes and the kernel still do
// for the Pods of the last round, of whichever side, is not part of the next one. Some of
// it begins only when no more Pods are removed. On a machine that others keep busy it gives
// up in time.
func quiet(ctx context.Context) error {
	before, err := readTimes()
	for deadline := time.Now().Add(quietWithin); err == nil && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietFor):
		}
		var now times
		if now, err = readTimes(); err == nil && now.idleSince(before) >= quietShare {
			return nil
		}
		before = now
	}
	return err
}

// times are the processors' times since the boot, in ticks.
type times struct{ idle, all uint64 }

func readTimes() (times, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return times{}, err
	}
	return parseTimes(string(text))
}

// parseTimes reads the sums over all processors (proc_stat(5)).
func parseTimes(stat string) (t times, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	var user, nice, system, iowait, irq, softirq, steal uint64
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &t.idle, &iowait, &irq, &softirq, &steal); err != nil {
		return times{}, fmt.Errorf("reading /proc/stat: %q: %w", line, err)
	}
	t.all = user + nice + system + t.idle + iowait + irq + softirq + steal
	return t, nil
}

func (t times) idleSince(before times) float64 {
	if t.all <= before.all {
		return 0
	}
	return float64(t.idle-before.idle) / float64(t.all-before.all)
}
