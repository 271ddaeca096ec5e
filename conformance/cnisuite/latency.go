package cnisuite

import (
	"context"
	"fmt"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// latencyRules report how long the plugin takes. They are for people, not for gates:
// a loaded machine is slow too.
func latencyRules() []conformance.Rule[Target] {
	latency := checked(rule("CNI-TIME-001", conformance.Advisory, "half of the calls of each command take less than a second", "Lifecycle & Ordering",
		"The container runtime must not invoke parallel operations for the same container"), checkLatency)
	latency.Alone = true
	return []conformance.Rule[Target]{latency}
}

// checkLatency runs a few lives. The report says how long each command took.
func checkLatency(ctx context.Context, l *lab) error {
	const lives, limit = 3, time.Second
	if _, err := l.askVersion(ctx, with{}); err != nil { // other rules may have asked
		return err
	}
	// For a slow plugin fewer lives tell as much.
	for start := time.Now(); l.calls("DEL") < lives && time.Since(start) < 5*limit; {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		if _, err := l.add(ctx, c); err != nil {
			return err
		}
		if l.speaks("0.4.0") {
			if err := l.check(ctx, c, with{}); err != nil {
				return err
			}
		}
		if err := l.del(ctx, c, "DEL"); err != nil {
			return err
		}
		if !l.speaks("1.1.0") {
			continue
		}
		for _, command := range []string{"STATUS", "GC"} { // whether they succeed is for other rules
			if _, err := l.call(ctx, command, nil, with{}); err != nil {
				return err
			}
		}
	}
	var slow error
	for _, command := range []string{"VERSION", "STATUS", "ADD", "CHECK", "DEL", "GC"} {
		if len(l.took[command]) == 0 {
			continue
		}
		half, most := l.median(command), l.slowest(command)
		for _, took := range l.took[command] {
			l.measure(command, took)
		}
		if half > limit && slow == nil {
			slow = fmt.Errorf("%s takes %s at the median, %s at most", command, half.Round(time.Millisecond), most.Round(time.Millisecond))
		}
	}
	return slow
}
