package label

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// drawer is a policy that draws the levels in order of those that are free, so that
// a level which was not taken, or not given back, shows at once. What the kernel
// does with labels it does not pretend.
type drawer struct{ taken map[string]bool }

func (d drawer) draw() (spec.Labels, error) {
	for c := 1; ; c++ {
		if l := fmt.Sprintf("s0:c0,c%d", c); !d.taken[l] {
			d.taken[l] = true
			return spec.Labels{Process: "u:r:t:" + l, Mount: "u:o:f:" + l}, nil
		}
	}
}
func (d drawer) take(label string) { d.taken[level(label)] = true }
func (d drawer) free(label string) { delete(d.taken, level(label)) }

func (d drawer) canonical(label string) (string, error) {
	if strings.Contains(label, "bad") {
		return "", fault.Invalid.Errorf("no label %q", label)
	}
	return label, nil
}

func newDrawer() (*Machine, drawer) {
	d := drawer{taken: map[string]bool{}}
	return &Machine{policy: d, held: map[string]string{}}, d
}

func (m *Machine) mustPod(t *testing.T, id, level string) spec.Labels {
	t.Helper()
	l, err := m.Pod(id, &runtimeapi.SELinuxOption{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLevelsAreTheirOwn(t *testing.T) {
	m, d := newDrawer()
	a, b := m.mustPod(t, "a", ""), m.mustPod(t, "b", "")
	if a == b {
		t.Errorf("two Pods have the labels %v", a)
	}
	for range 2 {
		m.Release("a")
	}
	if c := m.mustPod(t, "c", ""); c != a {
		t.Errorf("after the release of %v another Pod has %v", a, c)
	}
	m.Release("b")
	m.Release("c")
	if len(d.taken) != 0 {
		t.Errorf("levels that nobody has are taken: %v", d.taken)
	}
}

// TestSharedLevel: what several ask for is free when the last of them is gone.
func TestSharedLevel(t *testing.T) {
	m, d := newDrawer()
	a, b := m.mustPod(t, "a", "s0:c0,c1"), m.mustPod(t, "b", "s0:c0,c1")
	if a != b || !strings.HasSuffix(a.Process, ":s0:c0,c1") || len(d.taken) != 1 {
		t.Errorf("they have %v and %v, and %v is taken", a, b, d.taken)
	}
	m.Release("a")
	if c := m.mustPod(t, "c", ""); c == b {
		t.Errorf("a Pod that asks for nothing has the level of another: %v", c)
	}
	m.Release("b")
	m.Release("c")
	if len(d.taken) != 0 {
		t.Errorf("levels that nobody has are taken: %v", d.taken)
	}
}

// TestHold is a restart: the new process knows what the old one gave.
func TestHold(t *testing.T) {
	m, _ := newDrawer()
	a := m.mustPod(t, "a", "")
	next, d := newDrawer()
	for range 2 {
		next.Hold("a", a.Process)
	}
	next.Hold("container", "")
	if b := next.mustPod(t, "b", ""); b == a {
		t.Errorf("after a restart a new Pod has the labels of an old one: %v", b)
	}
	next.Release("a")
	next.Release("b")
	next.Release("container")
	if len(d.taken) != 0 {
		t.Errorf("levels that nobody has are taken: %v", d.taken)
	}
}

func TestRefusedLabel(t *testing.T) {
	m, d := newDrawer()
	for _, ask := range []*runtimeapi.SELinuxOption{{Type: "bad"}, {Level: "bad"}, {User: `"`}} {
		if _, err := m.Pod("a", ask); !errors.Is(err, fault.Invalid) {
			t.Errorf("%v: %v, want fault.Invalid", ask, err)
		}
	}
	if len(d.taken)+len(m.held) != 0 {
		t.Errorf("after refusals %v is taken, by %v", d.taken, m.held)
	}
}

// bare is a policy that knows no containers.
type bare struct{ drawer }

func (bare) draw() (spec.Labels, error) { return spec.Labels{}, nil }

func TestPolicyWithoutContainers(t *testing.T) {
	m := &Machine{policy: bare{}, held: map[string]string{}}
	if l, err := m.Pod("a", &runtimeapi.SELinuxOption{}); err != nil || l != (spec.Labels{}) {
		t.Errorf("a Pod that asks for nothing: %v, %v", l, err)
	}
	if _, err := m.Pod("a", &runtimeapi.SELinuxOption{Level: "s0"}); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("a Pod that asks for a level: %v, want fault.FailedPrecondition", err)
	}
}

// TestOff: where SELinux is off nothing is labelled, and nothing that is asked for fails.
func TestOff(t *testing.T) {
	var m *Machine
	if m.Mode() != "off" {
		t.Errorf("its mode is %q", m.Mode())
	}
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := m.Pod("a", &runtimeapi.SELinuxOption{Level: "s0:c1"})
	if err = errors.Join(err, m.Check("x"), m.SetFile(file, "x"), m.Relabel("/", "x")); err != nil || l != (spec.Labels{}) {
		t.Errorf("without SELinux: %v, %v", l, err)
	}
	m.Hold("a", "x")
	m.Release("a")
}
