// Package qos keeps the cgroups of a node's Pods: a tree by quality of service
// class, as upstream's kubelet has it, below a parent that is the node's alone.
//
//	PARENT/kubepods/pod<uid>             Guaranteed
//	PARENT/kubepods/burstable/pod<uid>   Burstable
//	PARENT/kubepods/besteffort/pod<uid>  BestEffort
//
// With the systemd driver each of them is a slice,
// PARENT.slice/PARENT-kubepods.slice/PARENT-kubepods-burstable.slice and so on,
// with dashes inside a name as underscores.
//
// What a cgroup gets follows from Pods alone (PodLimits, classShares), so there
// is nothing to remember: whatever a crash left half done is right again after
// the next Apply, Remove or Refresh. Only cgroups of these names are touched.
package qos

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Config says where the tree is and whose Pods it holds.
type Config struct {
	// Parent is the cgroup below which the tree is, as the cgroupfs driver names
	// it: "/nodekit-x". Required.
	Parent string
	// Systemd has systemd make the cgroups.
	Systemd bool
	// PIDs bounds the tasks of each Pod; zero does not.
	PIDs int64
	// Pods returns the Pods that are to run on the node. Required.
	Pods func() []*v1.Pod
}

// Tree is the tree of one node. Its methods may be called concurrently for
// different Pods.
type Tree struct {
	config Config

	mu   sync.Mutex
	have map[v1.PodQOSClass]uint64 // the shares that this process has written
}

// New returns the tree. It touches nothing yet.
func New(c Config) *Tree { return &Tree{config: c, have: map[v1.PodQOSClass]uint64{}} }

// PodPath returns the path of the Pod's cgroup, as runtimes are given it.
func (t *Tree) PodPath(p *v1.Pod) string {
	return podPath(t.driven(classPath(t.config.Parent, pod.QOS(p))), p.UID)
}

// driven returns the path as the node's driver has it.
func (t *Tree) driven(p string) string {
	if t.config.Systemd {
		return cgroup.Slice(p)
	}
	return p
}

func classPath(parent string, class v1.PodQOSClass) string {
	name := ""
	if class != v1.PodQOSGuaranteed {
		name = strings.ToLower(string(class))
	}
	return path.Join("/", parent, "kubepods", name)
}

// podPath returns the path of a Pod's cgroup below the one of its class.
func podPath(class string, uid types.UID) string {
	if cgroup.IsUnit(class) {
		return path.Join(class, slicePrefix(class)+strings.ReplaceAll(string(uid), "-", "_")+".slice")
	}
	return path.Join(class, "pod"+string(uid))
}

// slicePrefix is how the names of Pods' slices below a class begin.
func slicePrefix(class string) string {
	return strings.TrimSuffix(path.Base(class), ".slice") + "-pod"
}

// Apply makes the Pod's cgroup, or brings that which it has up to its spec, and
// the weight of its class with it. Call it before the Pod's first container is
// made, and when its resources have changed. A memory limit below what the Pod
// uses is an error, and what the cgroup had stays.
func (t *Tree) Apply(p *v1.Pod) error {
	at, limits := t.PodPath(p), PodLimits(p, t.config.PIDs)
	if !cgroup.Exists(at) {
		limits = unbounded(limits)
	}
	if err := cgroup.Create(at); err != nil {
		return err
	}
	if err := cgroup.Set(at, limits); err != nil {
		return err
	}
	return t.refresh("")
}

// Remove kills what is left in the Pod's cgroup and removes it, whatever the
// Pod's class and whichever driver made it. Call it when the Pod's containers
// have gone. Idempotent; a Pod of which only the uid is known will do.
func (t *Tree) Remove(uid types.UID) error {
	var errs []error
	for _, class := range t.classes() {
		if at := podPath(class, uid); cgroup.Exists(at) {
			errs = append(errs, cgroup.Destroy(at))
		}
	}
	return errors.Join(append(errs, t.refresh(uid))...)
}

// Pods returns the uids of the Pods that have a cgroup here.
func (t *Tree) Pods() ([]types.UID, error) {
	known := map[string]types.UID{} // a slice does not tell dashes from underscores
	for _, p := range t.config.Pods() {
		known[strings.ReplaceAll(string(p.UID), "-", "_")] = p.UID
	}
	var uids []types.UID
	for _, class := range t.classes() {
		names, err := cgroup.Children(class)
		if err != nil {
			return nil, fmt.Errorf("looking for Pods' cgroups: %w", err)
		}
		for _, name := range names {
			if uid, ok := strings.CutPrefix(name, "pod"); ok && !cgroup.IsUnit(class) {
				uids = append(uids, types.UID(uid))
			}
			if uid, ok := strings.CutPrefix(name, slicePrefix(class)); ok && cgroup.IsUnit(class) {
				uid = strings.TrimSuffix(uid, ".slice")
				uids = append(uids, dashed(known, uid))
			}
		}
	}
	return uids, nil
}

func dashed(known map[string]types.UID, uid string) types.UID {
	if have, ok := known[uid]; ok {
		return have
	}
	return types.UID(strings.ReplaceAll(uid, "_", "-"))
}

// classes returns where Pods' cgroups may be, those of the other driver too: a
// node may have run with that before.
func (t *Tree) classes() []string {
	var paths []string
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		p := classPath(t.config.Parent, class)
		paths = append(paths, p, cgroup.Slice(p))
	}
	return paths
}

// Refresh gives the classes the weights that the node's Pods make, where they
// have not got them. Call it once at start: the Pods may have changed since the
// last process wrote.
func (t *Tree) Refresh() error { return t.refresh("") }

// refresh does it as if the Pod with the uid were gone.
func (t *Tree) refresh(gone types.UID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pods []*v1.Pod
	for _, p := range t.config.Pods() {
		if p.UID != gone {
			pods = append(pods, p)
		}
	}
	for _, class := range []v1.PodQOSClass{v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		at, want := t.driven(classPath(t.config.Parent, class)), classShares(class, pods)
		if !cgroup.Exists(at) {
			delete(t.have, class)
			continue
		}
		if t.have[class] == want {
			continue
		}
		if err := cgroup.Set(at, cgroup.Limits{CPUShares: want}); err != nil {
			return err
		}
		t.have[class] = want
	}
	return nil
}
