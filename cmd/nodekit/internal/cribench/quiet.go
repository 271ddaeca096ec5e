package cribench

import (
	"context"
	"time"

	"github.com/nodekit-project/nodekit/internal/procstat"
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
	before, err := procstat.ReadCPU()
	for deadline := time.Now().Add(quietWithin); err == nil && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietFor):
		}
		var now procstat.CPU
		if now, err = procstat.ReadCPU(); err == nil && idleShare(before, now) >= quietShare {
			return nil
		}
		before = now
	}
	return err
}

// idleShare is the share of the processors' time between two readings for which they had
// nothing to do.
func idleShare(before, now procstat.CPU) float64 {
	idle := now.Idle - before.Idle
	all := idle + now.Busy - before.Busy + now.Wait - before.Wait
	if all == 0 {
		return 0
	}
	return float64(idle) / float64(all)
}
