package pod

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// LostExitCode is the assumed exit code of a container that the runtime has no record
// of any more.
const LostExitCode = 137

// Recall adds to the observation the containers that the recorded status knows and the
// runtime does not, after a reboot or because somebody removed them. They have ended,
// with the recorded exit code if there is one, and otherwise with reason
// ContainerStatusUnknown. Without it, a Pod whose records were lost would start as if
// it were new, whatever its restart policy.
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

// before compares a time from a status. A time that was read back from the store has
// only whole seconds: a time in the same second is then not before t.
func before(recorded, t time.Time) bool {
	if recorded.Nanosecond() == 0 {
		t = t.Truncate(time.Second)
	}
	return recorded.Before(t)
}

// follows reports whether c supersedes an instance with the given restart count that
// has run. An instance with the same count that was only created does not: it comes
// from a call whose caller has died.
func follows(c *Container, count int32) bool {
	return int32(c.Attempt) > count || int32(c.Attempt) == count && c.State != Created
}

// ran reports whether, by the status, the instance has ever run. One that was only
// created is not missed: the next start creates another.
func ran(s *v1.ContainerStatus, id string) bool {
	last := s.LastTerminationState.Terminated
	return s.State.Running != nil || s.State.Terminated != nil || last != nil && strings.HasSuffix(last.ContainerID, id)
}
