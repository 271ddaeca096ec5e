package pod

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// The restart back-off, as in the upstream kubelet.
const (
	delayMin   = 10 * time.Second
	delayMax   = 300 * time.Second
	delayReset = 10 * time.Minute // an instance that ran this long resets the delay
)

// Restarts reports whether a container that exited with the code is started again. An
// ephemeral container never is.
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

// Restarts reports whether another instance follows the ended one: according to the
// restart policy, and in any case if it was stopped for a change of its spec.
func (v *View) Restarts(c *v1.Container, ended *Container) bool {
	return v.replaced(c, ended) || Restarts(v.Pod, c, ended.ExitCode)
}

// replaced reports whether the app container changed while the ended instance ran. An
// instance that had ended before is recorded as terminated for good, so a later change
// by a user does not run it again. If the record says that another instance follows,
// that holds even when the runtime has forgotten what the ended one was created from.
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

// RestartAt returns the earliest time at which another instance may follow the ended
// one: at once after the first, then after delays that double.
func RestartAt(c *Container) time.Time {
	return c.FinishedAt.Add(delayInForce(c))
}

// nextDelay returns the delay to create the instance after c with.
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

// Backoff returns the delay after n consecutive failures of something other than a
// container's own run: an image pull, a creation, a mount. The first retry comes after
// base; the delay doubles up to limit.
func Backoff(n int, base, limit time.Duration) time.Duration {
	d := base
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}
