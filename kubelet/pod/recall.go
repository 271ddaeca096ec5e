package pod

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// LostExitCode is what a container counts as having exited with when its
// runtime has no record of it any more.
const LostExitCode = 137

// Recall adds to the observation the containers that the recorded status knows
// and the runtime does not: after a reboot, or when somebody removed them.
// They have ended, with the recorded exit if there is one and else with reason
// ContainerStatusUnknown. Without it a Pod whose records were lost would start
// as if it were new, whatever its restart policy.
func Recall(was *v1.PodStatus, seen *Observation) {
	for n, list := range Statuses(was) {
		for i := range list {
			c, ok := recalled(&list[i], seen)
			if !ok {
				continue
			}
			if n == 0 && list[i].State.Waiting != nil { // an init container that is to run again, maybe for a sandbox that came within the second
				c.SandboxID = ""
			}
			seen.Containers = append(seen.Containers, c)
		}
	}
	seen.Sort()
}

func recalled(s *v1.ContainerStatus, seen *Observation) (Container, bool) {
	_, id, _ := strings.Cut(s.ContainerID, "://")
	if id == "" || !ran(s, id) {
		return Container{}, false
	}
	for i := range seen.Containers {
		if c := &seen.Containers[i]; c.ID == id || c.Name == s.Name && follows(c, s.RestartCount) {
			return Container{}, false
		}
	}
	c := Container{
		ID: id, Name: s.Name, Attempt: uint32(s.RestartCount), State: Exited, Image: s.Image, ImageID: s.ImageID,
		ExitCode: LostExitCode, Reason: "ContainerStatusUnknown",
		Message: "the runtime has no record of this container any more",
	}
	if r := s.State.Running; r != nil {
		c.StartedAt = r.StartedAt.Time
	}
	for _, t := range []*v1.ContainerStateTerminated{s.LastTerminationState.Terminated, s.State.Terminated} {
		if t != nil && strings.HasSuffix(t.ContainerID, id) {
			c.ExitCode, c.Reason, c.Message = t.ExitCode, t.Reason, t.Message
			c.StartedAt, c.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
		}
	}
	c.CreatedAt = c.StartedAt
	if sandbox := seen.Sandbox(); sandbox != nil && !before(c.StartedAt, sandbox.CreatedAt) {
		c.SandboxID = sandbox.ID
	}
	return c, true
}

// before compares a time from a status. One that was read back from the store has
// whole seconds only: then what is of the same second is not before.
func before(recorded, t time.Time) bool {
	if recorded.Nanosecond() == 0 {
		t = t.Truncate(time.Second)
	}
	return recorded.Before(t)
}

// follows reports whether an instance on record makes one that ran, of that restart
// count, a thing of the past. One of the same count that was created only does not:
// it comes from a call whose caller is gone.
func follows(c *Container, count int32) bool {
	return int32(c.Attempt) > count || int32(c.Attempt) == count && c.State != Created
}

// ran reports whether the status says of the instance that it ever ran. One that
// was created only is not missed: the next start makes another.
func ran(s *v1.ContainerStatus, id string) bool {
	last := s.LastTerminationState.Terminated
	return s.State.Running != nil || s.State.Terminated != nil || last != nil && strings.HasSuffix(last.ContainerID, id)
}
