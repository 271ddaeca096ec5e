package cnisuite

import (
	"context"
	"fmt"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// latencyRules say how long the plugin takes. They are for eyes, not for gates:
// a loaded machine is slow too.
func latencyRules() []conformance.Rule[Target] {
	latency := checked(rule("CNI-TIME-001", conformance.Advisory, "half of the calls of each command take less than a second", "Lifecycle & Ordering",
		"The container runtime must not invoke parallel operations for the same container"), checkLatency)
	latency.Alone = true
	return []conformance.Rule[Target]{latency}
}

// checkLatency lives a few lives, and logs how long each command took.
func checkLatency(ctx context.Context, l *lab) error {
	const lives, limit = 3, time.Second
	for range lives {
		c, err := l.newContainer(ctx)
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
	}
	var slow error
	for _, command := range []string{"VERSION", "ADD", "CHECK", "DEL"} {
		calls := len(l.took[command])
		if calls == 0 {
			continue
		}
		half, most := l.median(command), l.slowest(command)
		l.log.Info("latency", "command", command, "calls", calls, "p50", half, "max", most)
		if half > limit && slow == nil {
			slow = fmt.Errorf("%s takes %s at the median, %s at most", command, half.Round(time.Millisecond), most.Round(time.Millisecond))
		}
	}
	return slow
}
