// Package admission decides whether a Pod may run on the node before anything of
// it is started: whether it is meant for this node, fits beside the others, and
// finds its host ports free.
//
// Decide is the pure decision. The Ledger holds what is given to whom and makes
// decisions one after the other, so that two Pods never get the same room. It
// keeps nothing on disk: that a Pod has been admitted is the startTime of its
// recorded status, or, should a crash have come before that was written, that the
// runtime has anything of it. Both come about after the decision and before
// the first start, so a Pod that has neither was not begun, and deciding again
// takes nothing from it.
//
// Devices are allocated elsewhere (kubelet/device), ephemeral storage is not
// counted. All methods are safe for concurrent use.
package admission

import (
	"fmt"
	"runtime"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Node is what Pods are admitted to.
type Node struct {
	Name string
	// Labels are the node's at the moment, for node selectors and affinity. It is
	// called for Pods that have such and for no others, from many goroutines; nil
	// has none.
	Labels func() map[string]string
	// Room is what all Pods together may ask for; a zero part is not counted.
	Room pod.Amount
	// MaxPods is how many Pods may run at once.
	MaxPods int
}

// rejected begins the message of a refusal.
const rejected = "Pod was rejected: "

// Decide returns nil when p may run on the node beside the Pods that have been
// admitted, a *pod.WaitError when it may once Pods that are ending have ended,
// and otherwise a *pod.RejectError: it will not run here. Which of held are ending
// is what their deletionTimestamp says. p itself may be among held; it is passed
// over.
func Decide(p *v1.Pod, node Node, held []*v1.Pod) error {
	if err := suits(p, node); err != nil {
		return err
	}
	return beside(p, node, held)
}

// beside checks what depends on the other Pods.
func beside(p *v1.Pod, node Node, held []*v1.Pod) error {
	others := make([]*v1.Pod, 0, len(held))
	var staying []*v1.Pod
	for _, h := range held {
		if h.UID == p.UID {
			continue
		}
		others = append(others, h)
		if h.DeletionTimestamp == nil {
			staying = append(staying, h)
		}
	}
	if err := room(p, node, staying); err != nil {
		return err
	}
	if err := room(p, node, others); err != nil { // of those that end
		return waitFor("Pods that are ending to make room", err)
	}
	return nil
}

// waitFor makes a refusal one that time will change. What it returns is no
// refusal any more, also not to errors.As.
func waitFor(what string, why *pod.RejectError) error {
	text := strings.TrimPrefix(why.Message, rejected)
	return &pod.WaitError{Reason: why.Reason, For: what, Err: fault.Exhausted.Errorf("%s", text)}
}

// room checks resources and ports beside the others.
func room(p *v1.Pod, node Node, others []*v1.Pod) *pod.RejectError {
	if err := Fits(p, node, others); err != nil {
		return err
	}
	return portsFree(p, others)
}

// Fits returns which of the node's resources p asks too much of, beside the
// others.
func Fits(p *v1.Pod, node Node, others []*v1.Pod) *pod.RejectError {
	if len(others)+1 > node.MaxPods {
		return outOf("pods", 1, int64(len(others)), int64(node.MaxPods))
	}
	var used pod.Amount
	for _, o := range others {
		used = used.Plus(pod.Requests(o))
	}
	asked := pod.Requests(p)
	if over(asked.MilliCPU, used.MilliCPU, node.Room.MilliCPU) {
		return outOf(v1.ResourceCPU, asked.MilliCPU, used.MilliCPU, node.Room.MilliCPU)
	}
	if over(asked.Memory, used.Memory, node.Room.Memory) {
		return outOf(v1.ResourceMemory, asked.Memory, used.Memory, node.Room.Memory)
	}
	return nil
}

// over reports whether the node lacks what is asked for. A Pod that asks for
// nothing always fits.
func over(asked, used, capacity int64) bool {
	return capacity > 0 && asked > 0 && asked+used > capacity
}

// outOf has the reason and the form of the message that users of Kubernetes
// know; cpu is in thousandths.
func outOf(what v1.ResourceName, asked, used, capacity int64) *pod.RejectError {
	return &pod.RejectError{
		Reason: "OutOf" + string(what),
		Message: fmt.Sprintf(rejected+"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			what, asked, used, capacity),
	}
}

// suits checks what the Pod says of the nodes that it is for.
func suits(p *v1.Pod, node Node) error {
	if os := p.Spec.OS; os != nil && os.Name != "" && string(os.Name) != runtime.GOOS {
		return &pod.RejectError{
			Reason:  "PodOSNotSupported",
			Message: fmt.Sprintf(rejected+"it is for %s (spec.os.name), and this node runs %s", os.Name, runtime.GOOS),
		}
	}
	if why := mismatch(&p.Spec, node); why != "" {
		return &pod.RejectError{Reason: "NodeAffinity", Message: rejected + why}
	}
	return nil
}
