package qos_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/qos"
)

// node is what is wanted to run, and the tree of it.
type node struct {
	t      *testing.T
	parent string
	pods   []*v1.Pod
	*qos.Tree
}

// each runs the test with each driver that the machine has.
func each(t *testing.T, test func(t *testing.T, n *node)) {
	for name, systemd := range map[string]bool{"cgroupfs": false, "systemd": true} {
		t.Run(name, func(t *testing.T) {
			testenv.Require(t, testenv.Root)
			if systemd {
				testenv.Require(t, testenv.Systemd)
			}
			n := &node{t: t, parent: fmt.Sprintf("/nodekit-test-%08x", rand.Uint32())}
			n.restart(systemd)
			t.Cleanup(func() {
				for _, p := range []string{n.parent, cgroup.Slice(n.parent)} {
					if err := errors.Join(cgroup.Kill(p), cgroup.Remove(p)); err != nil {
						t.Error(err)
					}
				}
			})
			test(t, n)
		})
	}
}

// restart is a process that knows nothing of the one before.
func (n *node) restart(systemd bool) {
	n.Tree = qos.New(qos.Config{Parent: n.parent, Systemd: systemd, PIDs: 50, Pods: func() []*v1.Pod { return n.pods }})
}

// add wants a Pod that asks for CPU and has a limit of it and of memory.
func (n *node) add(uid, request, limit, memory string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	r := &p.Spec.Containers[0].Resources
	r.Requests, r.Limits = v1.ResourceList{}, v1.ResourceList{}
	for _, q := range []struct {
		list  v1.ResourceList
		name  v1.ResourceName
		value string
	}{{r.Requests, v1.ResourceCPU, request}, {r.Limits, v1.ResourceCPU, limit}, {r.Limits, v1.ResourceMemory, memory}} {
		if q.value != "" {
			q.list[q.name] = resource.MustParse(q.value)
		}
	}
	n.pods = append(n.pods, p)
	return p
}

func (n *node) drop(p *v1.Pod) {
	n.pods = slices.DeleteFunc(n.pods, func(have *v1.Pod) bool { return have == p })
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// expect fails the test unless the cgroup's file holds the value: that of v1 or
// of v2.
func (n *node) expect(at, v1File, v1Value, v2File, v2Value string) {
	n.t.Helper()
	file, want := v1File, v1Value
	if cgroup.Version() == 2 {
		file, want = v2File, v2Value
	}
	dirs, err := cgroup.Dirs(at)
	n.must(err)
	for _, d := range dirs {
		if text, err := os.ReadFile(filepath.Join(d, file)); err == nil {
			if got := strings.TrimSpace(string(text)); got != want {
				n.t.Errorf("%s of %s is %q, want %q", file, at, got, want)
			}
			return
		}
	}
	n.t.Errorf("%s has no %s", at, file)
}

// class is where a Pod's class is.
func (n *node) class(p *v1.Pod) string { return filepath.Dir(n.PodPath(p)) }

func TestTree(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		one := n.add("aa-1", "250m", "500m", "64Mi")
		n.must(n.Apply(one))
		n.must(n.Apply(one))
		at := n.PodPath(one)
		n.expect(at, "cpu.shares", "256", "cpu.weight", "35")
		n.expect(at, "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000")
		n.expect(at, "memory.limit_in_bytes", "67108864", "memory.max", "67108864")
		n.expect(at, "pids.max", "50", "pids.max", "50")
		n.expect(n.class(one), "cpu.shares", "256", "cpu.weight", "35")

		two := n.add("aa-2", "750m", "", "")
		n.must(n.Apply(two))
		n.expect(n.class(two), "cpu.shares", "1024", "cpu.weight", "100")
		best := n.add("aa-3", "", "", "")
		n.must(n.Apply(best))
		n.expect(n.class(best), "cpu.shares", "2", "cpu.weight", "1")
		sure := n.add("aa-4", "1", "1", "64Mi")
		n.must(n.Apply(sure))
		if got, want := n.class(sure), filepath.Dir(n.class(one)); got != want {
			t.Errorf("a Guaranteed Pod is in %q, want %q", got, want)
		}

		n.drop(one)
		n.must(n.Remove(one.UID))
		n.must(n.Remove(one.UID))
		if cgroup.Exists(at) {
			t.Error("the Pod's cgroup is there after Remove")
		}
		n.expect(n.class(two), "cpu.shares", "768", "cpu.weight", "80")
		uids, err := n.Pods()
		slices.Sort(uids)
		if want := []types.UID{"aa-2", "aa-3", "aa-4"}; err != nil || !slices.Equal(uids, want) {
			t.Errorf("Pods = %v, %v; want %v", uids, err, want)
		}
	})
}

// TestResize: Apply brings a Pod that runs to new resources and takes away
// bounds that it has no more.
func TestResize(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.add("aa-1", "250m", "500m", "64Mi")
		n.must(n.Apply(p))
		r := &p.Spec.Containers[0].Resources
		r.Requests[v1.ResourceCPU], r.Limits[v1.ResourceMemory] = resource.MustParse("500m"), resource.MustParse("128Mi")
		delete(r.Limits, v1.ResourceCPU)
		n.must(n.Apply(p))
		n.expect(n.PodPath(p), "cpu.shares", "512", "cpu.weight", "59")
		n.expect(n.PodPath(p), "cpu.cfs_quota_us", "-1", "cpu.max", "max 100000")
		n.expect(n.PodPath(p), "memory.limit_in_bytes", "134217728", "memory.max", "134217728")
		n.expect(n.class(p), "cpu.shares", "512", "cpu.weight", "59")
	})
}

// TestAfterCrash: a process that was killed left a Pod's cgroup without its
// object, and a class with a Pod's weight.
func TestAfterCrash(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		gone, stays := n.add("aa-1", "500m", "", ""), n.add("aa-2", "250m", "", "")
		n.must(n.Apply(gone))
		n.must(n.Apply(stays))
		systemd := cgroup.IsUnit(n.PodPath(gone))
		n.drop(gone)
		n.restart(systemd)
		n.must(n.Refresh())
		n.expect(n.class(stays), "cpu.shares", "256", "cpu.weight", "35")
		if uids, err := n.Pods(); err != nil || !slices.Contains(uids, "aa-1") {
			t.Errorf("the orphan is not found: %v, %v", uids, err)
		}
		n.must(n.Remove("aa-1"))

		// The other driver finds and removes what this one made.
		n.restart(!systemd)
		if uids, err := n.Pods(); err != nil || !slices.Equal(uids, []types.UID{"aa-2"}) {
			t.Errorf("after a change of the driver Pods = %v, %v", uids, err)
		}
		n.must(n.Remove("aa-2"))
		if uids, err := n.Pods(); err != nil || len(uids) > 0 {
			t.Errorf("after that Pods = %v, %v", uids, err)
		}
	})
}

// TestForeign: what is not a Pod's cgroup is no orphan and stays.
func TestForeign(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		n.must(cgroup.Create(n.parent + "/podx"))
		n.must(cgroup.Create(n.parent + "/kubepods/other"))
		if uids, err := n.Pods(); err != nil || len(uids) > 0 {
			t.Errorf("Pods = %v, %v; want none", uids, err)
		}
		n.must(n.Remove("x"))
		if !cgroup.Exists(n.parent+"/podx") || !cgroup.Exists(n.parent+"/kubepods/other") {
			t.Error("a cgroup that is no Pod's was removed")
		}
	})
}
