package admission

import (
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Ledger records which Pods have been admitted and occupy room on the node.
type Ledger struct {
	node Node

	mu   sync.Mutex
	held map[types.UID]*v1.Pod
}

// New returns a ledger in which those of pods have room that an earlier process
// admitted and that are not finished. It must know them before the first decision.
func New(node Node, pods []*v1.Pod) *Ledger {
	l := &Ledger{node: node, held: map[types.UID]*v1.Pod{}}
	for _, p := range pods {
		if p.Status.StartTime != nil && !pod.Terminal(p.Status.Phase) {
			l.held[p.UID] = pod.Settled(p, &p.Status)
		}
	}
	return l
}

// Admit reserves room for the Pod, or returns Decide's error. A Pod that has room keeps
// it. Calls for one Pod must not overlap.
func (l *Ledger) Admit(p *v1.Pod) error {
	if l.has(p.UID) {
		return nil
	}
	if err := suits(p, l.node); err != nil { // without the lock: it may take a while to read the labels
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := beside(p, l.node, l.others(p.UID)); err != nil {
		return err
	}
	l.held[p.UID] = p
	return nil
}

func (l *Ledger) has(uid types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[uid] != nil
}

// Adopt reserves room for a Pod that an earlier process admitted, whether it fits or
// not: it runs.
func (l *Ledger) Adopt(p *v1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[p.UID] == nil {
		l.held[p.UID] = p
	}
}

// Ending records that the Pod is to terminate: others may wait for its room from now
// on.
func (l *Ledger) Ending(p *v1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.held[p.UID]; have != nil && have.DeletionTimestamp == nil {
		next := *have
		next.DeletionTimestamp = p.DeletionTimestamp
		l.held[p.UID] = &next
	}
}

// Resize changes the room of an admitted Pod to what p requests now. It returns a
// *pod.WaitError if other Pods have the room at the moment, and a *pod.RejectError if
// the node can never provide it. The Pod then keeps the room that it has.
func (l *Ledger) Resize(p *v1.Pod) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := Fits(p, l.node, nil); err != nil {
		return err
	}
	if err := Fits(p, l.node, l.others(p.UID)); err != nil {
		return waitFor("room on the node", err)
	}
	if l.held[p.UID] != nil {
		l.held[p.UID] = p
	}
	return nil
}

// Release frees the room of a Pod that has stopped. It is idempotent.
func (l *Ledger) Release(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, uid)
}

// others returns the other Pods that have room. The caller holds l.mu.
func (l *Ledger) others(uid types.UID) []*v1.Pod {
	return slices.DeleteFunc(slices.Collect(maps.Values(l.held)), func(p *v1.Pod) bool { return p.UID == uid })
}
