package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// sandboxState is the content of cri.Sandbox.State: what later calls need and nothing
// else records. A sandbox without labels has none.
type sandboxState struct {
	Version int         `json:"version"`
	Labels  spec.Labels `json:"labels"`
}

const sandboxStateVersion = 1

// chooseLabels gives a new sandbox its SELinux labels.
func (r *Runtime) chooseLabels(s *cri.Sandbox) (spec.Labels, error) {
	labels, err := r.labels.Pod(s.ID, s.Config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	if err != nil || labels == (spec.Labels{}) {
		return labels, err
	}
	s.State, err = json.Marshal(sandboxState{sandboxStateVersion, labels})
	return labels, err
}

// labelsOf returns the labels of a sandbox, none if SELinux is off now.
func (r *Runtime) labelsOf(s *cri.Sandbox) (spec.Labels, error) {
	if r.labels == nil || len(s.State) == 0 {
		return spec.Labels{}, nil
	}
	var st sandboxState
	if err := json.Unmarshal(s.State, &st); err != nil {
		return st.Labels, fmt.Errorf("reading the state of sandbox %q: %w", s.ID, err)
	}
	if st.Version > sandboxStateVersion {
		return st.Labels, fault.FailedPrecondition.Errorf("the state of sandbox %q is of version %d, and this program knows %d", s.ID, st.Version, sandboxStateVersion)
	}
	return st.Labels, nil
}

// holdLabels reserves the MCS level of a container, which may have one of its own.
func (r *Runtime) holdLabels(c *cri.Container) (spec.Labels, error) {
	pod, err := r.labelsOf(c.Sandbox)
	if err != nil {
		return pod, err
	}
	security := c.Config.GetLinux().GetSecurityContext()
	if r.labels != nil && pod == (spec.Labels{}) && spec.AsksLabel(security.GetSelinuxOptions()) && !security.GetPrivileged() {
		return pod, fault.FailedPrecondition.Errorf("an SELinux label is asked for, and the Pod has none: when it was made " +
			"the policy knew no containers, or labels were switched off")
	}
	labels, err := spec.ContainerLabels(pod, c.Sandbox.Config, c.Config)
	if err == nil && labels != pod { // the Pod's labels have been checked already
		err = errors.Join(r.labels.Check(labels.Process), r.labels.Check(labels.Mount))
	}
	if err != nil {
		return labels, err
	}
	r.labels.Hold(c.ID, labels.Mount)
	return labels, nil
}

// recoverLabels reserves the MCS levels of existing sandboxes and containers again.
func (r *Runtime) recoverLabels(sandboxes []*cri.Sandbox, containers []*cri.Container) error {
	for _, s := range sandboxes {
		labels, err := r.labelsOf(s)
		if err != nil {
			return err
		}
		r.labels.Hold(s.ID, labels.Process)
	}
	for _, c := range containers {
		if _, err := r.holdLabels(c); err != nil { // the policy may have changed
			r.cfg.Logger.Warn("taking the SELinux level of a container again", "container", c.ID, "err", err)
		}
	}
	return nil
}

// relabel labels the host paths of the container's mounts that request it.
func (r *Runtime) relabel(c *cri.Container, label string) error {
	for _, m := range c.Config.GetMounts() {
		if !m.GetSelinuxRelabel() || m.GetHostPath() == "" { // an image gets its label when it is mounted
			continue
		}
		real, err := filepath.EvalSymlinks(m.GetHostPath())
		if err != nil {
			return fault.Invalid.Errorf("mounting %q at %q: %w", m.GetHostPath(), m.GetContainerPath(), err)
		}
		if err := r.labels.Relabel(real, label); err != nil {
			return fault.Of(err).Errorf("relabelling %q for the mount at %q: %w", m.GetHostPath(), m.GetContainerPath(), err)
		}
	}
	return nil
}
