package pod

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// The restart back-off, as the upstream kubelet has it.
const (
	delayMin   = 10 * time.Second
	delayMax   = 300 * time.Second
	delayReset = 10 * time.Minute // an instance that ran this long starts afresh
)

// Restarts reports whether a container that ended with the code is started
// again. An ephemeral container never is.
func Restarts(p *v1.Pod, c *v1.Container, code int32) bool {
	if Ephemeral(p, c.Name) != nil {
		return false
	}
	if IsInit(p, c.Name) {
		if IsSidecar(c) {
			return true
		}
		return code != 0 && p.Spec.RestartPolicy != v1.RestartPolicyNever
	}
	switch p.Spec.RestartPolicy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return code != 0
	default:
		return true
	}
}

// Restarts reports whether the ended instance is followed by another: as the
// restart policy says, and whatever it says when it was ended for a change of its
// spec.
func (v *View) Restarts(c *v1.Container, ended *Container) bool {
	return v.replaced(c, ended) || Restarts(v.Pod, c, ended.ExitCode)
}

// replaced reports whether the app container changed while the ended instance ran.
// One that had ended before is recorded as terminated for good, so a user who
// changes it later does not have it run again. One that is recorded as to be
// followed is, also when the runtime has forgotten what it was made from.
func (v *View) replaced(c *v1.Container, ended *Container) bool {
	if !isApp(v.Pod, c.Name) {
		return false
	}
	differs := ended.Hash != "" && ended.Hash != Hash(c)
	for i := range v.Was.ContainerStatuses {
		s := &v.Was.ContainerStatuses[i]
		if s.Name != c.Name || !strings.HasSuffix(s.ContainerID, "://"+ended.ID) {
			continue
		}
		last := s.LastTerminationState.Terminated
		promised := s.State.Waiting != nil && last != nil && last.ContainerID == s.ContainerID
		return promised || differs && s.State.Terminated == nil
	}
	return differs
}

// RestartAt is the earliest time at which the ended instance may be followed
// by another: at once after the first, then after delays that double.
func RestartAt(c *Container) time.Time {
	return c.FinishedAt.Add(delayInForce(c))
}

// nextDelay is the delay that the instance after c is created with.
func nextDelay(c *Container) time.Duration {
	d := delayInForce(c)
	if d == 0 {
		return delayMin
	}
	return min(2*d, delayMax)
}

func delayInForce(c *Container) time.Duration {
	if !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) >= delayReset {
		return 0
	}
	return c.Delay
}

// Backoff returns the delay after n failures in a row of something other than
// a container's own run: an image pull, a creation, a mount. The first retry
// comes after base, and the delay doubles up to limit.
func Backoff(n int, base, limit time.Duration) time.Duration {
	d := base
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}
