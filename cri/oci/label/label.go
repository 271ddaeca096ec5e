// Package label gives Pods their SELinux labels and labels the files that they use,
// on a machine that has SELinux switched on. What a container in a Pod gets of that
// is a pure function: see cri/oci/spec.ContainerLabels.
//
// A Pod that asks for nothing has the labels that the machine's policy names for
// containers, in the file that all container programs read (lxc_contexts of
// /etc/selinux/<type>/contexts, or /usr/share/containers/selinux/contexts), with a
// level of its own: two of 1024 categories, so that by the policy's rules one Pod
// cannot use what is another's. No other Pod of this process has that level; those of
// other processes, other runtimes', draw from the same half million.
package label

import (
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Machine is the SELinux of this machine. The nil *Machine is one without, whose
// methods give no label to anything. It is safe for concurrent use.
type Machine struct {
	policy policy

	mu   sync.Mutex
	held map[string]string // labels of processes whose levels are taken, by who has them
}

// policy is what a Machine asks the kernel and the library.
type policy interface {
	// draw returns the labels of containers with a level that is taken by this call,
	// or none where the policy knows no containers.
	draw() (spec.Labels, error)
	// take and free are for the level of a label.
	take(label string)
	free(label string)
	// canonical returns the label as the kernel writes it, fault.Invalid for one that
	// its policy does not allow.
	canonical(label string) (string, error)
}

// Open returns the machine's SELinux, nil where that is off. It tells the log of a
// policy that knows no containers, whose Pods have no label either.
func Open(log *slog.Logger) *Machine {
	if !selinux.GetEnabled() {
		return nil
	}
	m := &Machine{policy: kernel{}, held: map[string]string{}}
	labels, err := m.policy.draw()
	if err != nil || labels == (spec.Labels{}) {
		log.Warn("SELinux is on, and its policy does not say what containers are labelled with: they run in the runtime's own domain. "+
			"The package container-selinux says it on many distributions", "err", err)
	}
	m.policy.free(labels.Process)
	return m
}

// Pod chooses the labels of a new Pod, what it asks for in the place of the
// machine's own, and takes their level for id until Release. The caller keeps them
// and, after a restart, gives them to Hold. A level that is asked for may be another
// Pod's, too. fault.Invalid: there is no such label. fault.FailedPrecondition: labels
// are asked for and the policy knows no containers.
func (m *Machine) Pod(id string, ask *runtimeapi.SELinuxOption) (spec.Labels, error) {
	if m == nil {
		return spec.Labels{}, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	drawn, err := m.policy.draw()
	if err != nil || drawn == (spec.Labels{}) {
		if err == nil && spec.AsksLabel(ask) {
			err = fault.FailedPrecondition.Errorf("an SELinux label is asked for, and this machine's policy knows no containers: install container-selinux")
		}
		return spec.Labels{}, err
	}
	labels, err := drawn.With(ask)
	if err == nil {
		labels, err = m.canonical(labels)
	}
	if err != nil || level(labels.Process) != level(drawn.Process) {
		m.policy.free(drawn.Process)
	}
	if err != nil {
		return spec.Labels{}, err
	}
	m.hold(id, labels.Process)
	return labels, nil
}

func (m *Machine) canonical(l spec.Labels) (out spec.Labels, err error) {
	if out.Process, err = m.policy.canonical(l.Process); err != nil {
		return out, err
	}
	out.Mount, err = m.policy.canonical(l.Mount)
	return out, err
}

// Check returns fault.Invalid for a label that the machine's policy does not allow.
// An empty one is no label.
func (m *Machine) Check(label string) error {
	if m == nil || label == "" {
		return nil
	}
	_, err := m.policy.canonical(label)
	return err
}

// Hold takes the level of the label for id, if it has one, until Release: of a
// container with a level of its own, and of all that there was before a restart. It may
// be called again.
func (m *Machine) Hold(id, label string) {
	if m == nil || label == "" {
		return
	}
	// s0:c6,c5 is the level that is drawn, and given back, as s0:c5,c6.
	if same, err := m.policy.canonical(label); err == nil {
		label = same
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold(id, label)
}

func (m *Machine) hold(id, label string) {
	m.held[id] = label
	m.policy.take(label)
}

// Release gives the level of id back, once nobody else has it. It may be called again.
func (m *Machine) Release(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	had := m.held[id]
	delete(m.held, id)
	for _, label := range m.held {
		if level(label) == level(had) {
			return
		}
	}
	m.policy.free(had)
}

// level is what is behind the third colon, "" for no level.
func level(label string) string {
	parts := strings.SplitN(label, ":", 4)
	return strings.Join(parts[min(3, len(parts)):], "")
}

// SetFile labels one file or directory. A file system that keeps no labels has its
// own way.
func (m *Machine) SetFile(path, label string) error {
	if m == nil || label == "" {
		return nil
	}
	return kept(selinux.LsetFileLabel(path, label))
}

// Relabel labels what is at path, a path without links, and everything below. Containers
// may be at work there; no link leads it elsewhere.
// fault.Invalid: it is a directory of the system, which others need as it is.
// It may be called again, also for one that was relabelled in part.
func (m *Machine) Relabel(path, label string) error {
	if m == nil || label == "" {
		return nil
	}
	// The library knows the directories of systems, and labels path alone here. Its walk
	// goes by paths, which a container that works there could lead out of the directory.
	err := kept(selinux.Chcon(path, label, false))
	var failed *fs.PathError
	switch {
	case err == nil:
		return relabelInside(path, label)
	case errors.As(err, &failed):
		return err
	}
	return fault.Invalid.Wrap(err)
}

func kept(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// Mode is "enforcing", "permissive" or "off", now.
func (m *Machine) Mode() string {
	switch {
	case m == nil:
		return "off"
	case selinux.EnforceMode() == selinux.Enforcing:
		return "enforcing"
	}
	return "permissive"
}
