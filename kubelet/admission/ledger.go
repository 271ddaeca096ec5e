package admission

import (
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Ledger knows which Pods have been admitted and hold room on the node.
type Ledger struct {
	node Node

	mu   sync.Mutex
	held map[types.UID]*v1.Pod
}

// New returns a ledger in which those of the Pods have room that were admitted
// by an earlier process and are not finished. It must know them before the first
// decision.
func New(node Node, pods []*v1.Pod) *Ledger {
	l := &Ledger{node: node, held: map[types.UID]*v1.Pod{}}
	for _, p := range pods {
		if p.Status.StartTime != nil && !pod.Terminal(p.Status.Phase) {
			l.held[p.UID] = pod.Settled(p, &p.Status)
		}
	}
	return l
}

// Admit gives the Pod room on the node, or returns Decide's error. A Pod that
// has room keeps it. Calls for one Pod follow each other.
func (l *Ledger) Admit(p *v1.Pod) error {
	if l.has(p.UID) {
		return nil
	}
	if err := suits(p, l.node); err != nil { // which may take its time to learn the labels
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

// Adopt gives a Pod that was admitted by an earlier process its room, whether
// it fits or not: it runs.
func (l *Ledger) Adopt(p *v1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[p.UID] == nil {
		l.held[p.UID] = p
	}
}

// Ending notes that the Pod shall end: others may wait for its room from now
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

// Resize gives an admitted Pod the room that p asks for now. It returns a
// *pod.WaitError when others have it at the moment, and a *pod.RejectError when
// the node could never give it. The Pod keeps what it has then.
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

// Release takes the Pod's room: it has stopped. Idempotent.
func (l *Ledger) Release(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, uid)
}

// others returns the other Pods that have room. The caller holds l.mu.
func (l *Ledger) others(uid types.UID) []*v1.Pod {
	return slices.DeleteFunc(slices.Collect(maps.Values(l.held)), func(p *v1.Pod) bool { return p.UID == uid })
}
