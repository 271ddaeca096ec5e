// Package qos maintains the cgroups of a node's Pods: a tree by quality of service
// class, as in the upstream kubelet, below a parent that belongs to the node alone.
//
//	PARENT/kubepods/pod<uid>             Guaranteed
//	PARENT/kubepods/burstable/pod<uid>   Burstable
//	PARENT/kubepods/besteffort/pod<uid>  BestEffort
//
// With the systemd driver each of them is a slice,
// PARENT.slice/PARENT-kubepods.slice/PARENT-kubepods-burstable.slice and so on, with
// underscores for dashes inside a name.
//
// The settings of a cgroup follow from Pods alone (PodLimits, classShares), so there is
// no state to keep: whatever a crash left half done is corrected by the next Apply,
// Remove or Refresh. Only cgroups with these names are touched.
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

// Config configures a Tree.
type Config struct {
	// Parent is the cgroup that contains the tree, in cgroupfs notation: "/nodekit-x".
	// Required.
	Parent string
	// Systemd selects the systemd driver for the cgroups.
	Systemd bool
	// PIDs limits the number of tasks of each Pod; zero means no limit.
	PIDs int64
	// Pods returns the Pods that are to run on the node. Required.
	Pods func() []*v1.Pod
}

// Tree is the cgroup tree of one node. Its methods may be called concurrently for
// different Pods.
type Tree struct {
	config Config

	mu   sync.Mutex
	have map[v1.PodQOSClass]uint64 // the shares that this process has written
}

// New returns the tree. It changes nothing yet.
func New(c Config) *Tree { return &Tree{config: c, have: map[v1.PodQOSClass]uint64{}} }

// PodPath returns the path of the Pod's cgroup in the form for the runtime.
func (t *Tree) PodPath(p *v1.Pod) string {
	return podPath(t.driven(classPath(t.config.Parent, pod.QOS(p))), p.UID)
}

// driven returns the path in the notation of the node's cgroup driver.
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

// slicePrefix returns the prefix of the names of Pods' slices below a class.
func slicePrefix(class string) string {
	return strings.TrimSuffix(path.Base(class), ".slice") + "-pod"
}

// Apply creates the Pod's cgroup or updates it to its spec, and updates the weight of
// its class. Call it before the Pod's first container is created, and when its
// resources have changed. A memory limit below what the Pod uses is an error, and then
// the cgroup keeps its settings.
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

// Remove kills what is left in the Pod's cgroup and removes it, regardless of the Pod's
// class and the driver that created it. Call it when the Pod's containers are gone. It
// is idempotent, and needs only the UID.
func (t *Tree) Remove(uid types.UID) error {
	var errs []error
	for _, class := range t.classes() {
		if at := podPath(class, uid); cgroup.Exists(at) {
			errs = append(errs, cgroup.Destroy(at))
		}
	}
	return errors.Join(append(errs, t.refresh(uid))...)
}

// Pods returns the UIDs of the Pods that have a cgroup here.
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

// classes returns the cgroups that may contain Pods' cgroups, including those of the
// other driver: an earlier process may have used it.
func (t *Tree) classes() []string {
	var paths []string
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		p := classPath(t.config.Parent, class)
		paths = append(paths, p, cgroup.Slice(p))
	}
	return paths
}

// Refresh updates the weights of the classes to the node's Pods. Call it once at start:
// the Pods may have changed since the last process wrote the weights.
func (t *Tree) Refresh() error { return t.refresh("") }

// refresh is Refresh as if the Pod with the given UID were gone.
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
