package pod

import "time"

// end stops a terminating Pod: app containers and plain init containers together, then
// the sidecars one by one in reverse order.
func end(v *View) Plan {
	var p Plan
	active := v.Seen.Active()
	if len(active) == 0 {
		p.Ended = true
		return p
	}
	left := v.Ending.Deadline.Sub(v.Now)
	if v.Ending.Force {
		left = max(left, 0)
	} else {
		left = max(left, minGrace)
	}
	p.Kill = inOrder(v, active, KillEnding, "the Pod ends", left)
	return p
}

// finish stops what a finished Pod has left running, and its sandboxes, so that it
// holds no address. Its containers stay in the runtime for their logs.
func finish(v *View) Plan {
	var p Plan
	if active := v.Seen.Active(); len(active) > 0 {
		p.Kill = inOrder(v, active, KillFinished, "the Pod is finished", max(grace(v.Pod), minGrace))
		return p
	}
	for _, s := range v.Seen.Sandboxes {
		if s.Ready {
			p.StopSandbox = append(p.StopSandbox, s.ID)
		}
	}
	return p
}

// inOrder returns the kills that are due now.
func inOrder(v *View, active []Container, reason, message string, grace time.Duration) []Kill {
	var now []Kill
	last := -1
	var sidecar Kill
	for _, c := range active {
		k := Kill{ID: c.ID, Name: c.Name, Reason: reason, Message: message, Grace: grace}
		if at := sidecarIndex(v, c.Name); at < 0 {
			now = append(now, k)
		} else if at > last {
			last, sidecar = at, k
		}
	}
	if len(now) > 0 {
		return now
	}
	return []Kill{sidecar}
}

func sidecarIndex(v *View, name string) int {
	for i := range v.Pod.Spec.InitContainers {
		if c := &v.Pod.Spec.InitContainers[i]; c.Name == name && IsSidecar(c) {
			return i
		}
	}
	return -1
}
