package pod

import (
	"cmp"

	v1 "k8s.io/api/core/v1"
)

// Terminal reports whether a Pod in the phase is finished, so that none of its
// containers will run again.
func Terminal(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

// Ready reports whether the Pod's Ready condition is true.
func Ready(s *v1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// Phase returns the Pod's phase. It never leaves a terminal phase and never
// goes back from Running to Pending.
func Phase(v *View) v1.PodPhase {
	switch {
	case v.Finished():
		return v.Was.Phase
	case v.Failed != nil && len(v.Seen.Active()) == 0:
		return v1.PodFailed
	case v.Failed != nil: // however what still runs ends
		return cmp.Or(v.Was.Phase, v1.PodPending)
	}
	phase := phaseOf(v)
	if phase == v1.PodPending && v.Was.Phase == v1.PodRunning {
		return v1.PodRunning
	}
	return phase
}

func phaseOf(v *View) v1.PodPhase {
	n := tally(v)
	total := len(v.Pod.Spec.Containers)
	switch {
	case v.Ending != nil && len(v.Seen.Active()) == 0:
		// Nothing will run again, whatever the restart policy says.
		if n.succeeded == total {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	case initFailed(v, v.Seen.Sandbox()):
		return v1.PodFailed
	case n.missing > 0:
		return v1.PodPending
	case n.running > 0 || n.restarting > 0:
		return v1.PodRunning
	case n.failed > 0:
		return v1.PodFailed
	default:
		return v1.PodSucceeded
	}
}

type counts struct{ running, missing, restarting, succeeded, failed int }

// tally counts the app containers by what they do.
func tally(v *View) counts {
	var n counts
	for i := range v.Pod.Spec.Containers {
		c := &v.Pod.Spec.Containers[i]
		latest := v.Seen.Latest(c.Name)
		switch {
		case latest == nil, latest.State == Created && latest.Attempt == 0:
			n.missing++
		case latest.State != Exited:
			n.running++
		case v.Ending == nil && v.Restarts(c, latest):
			n.restarting++
		case latest.ExitCode == 0:
			n.succeeded++
		default:
			n.failed++
		}
	}
	return n
}
