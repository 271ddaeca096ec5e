// Package admission decides whether a Pod may run on the node before anything of it is
// started: whether it is meant for this node, fits beside the other Pods, and finds its
// host ports free.
//
// Decide is the pure decision. The Ledger records which Pods have room and makes
// decisions one at a time, so two Pods never get the same room. It keeps nothing on
// disk. That a Pod has been admitted is shown by the startTime of its recorded status
// or, if a crash came before that was written, by anything of it in the runtime. Both
// appear after the decision and before the first start, so a Pod with neither was not
// started, and deciding again takes nothing from it.
//
// Devices are allocated elsewhere (kubelet/device); ephemeral storage is not counted.
// All methods are safe for concurrent use.
package admission

import (
	"fmt"
	"runtime"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Node describes the node that Pods are admitted to.
type Node struct {
	Name string
	// Labels returns the node's current labels, for node selectors and affinity. It is
	// called only for Pods that have any, concurrently. Nil means no labels.
	Labels func() map[string]string
	// Room is what all Pods together may request; a zero part is not checked.
	Room pod.Amount
	// MaxPods is the maximum number of Pods that run at the same time.
	MaxPods int
}

// rejected is the prefix of the message of a rejection.
const rejected = "Pod was rejected: "

// Decide returns nil if p may run on the node beside the Pods in held, which have been
// admitted. It returns a *pod.WaitError if p may run once terminating Pods have ended,
// and otherwise a *pod.RejectError: p will not run here. A Pod of held is terminating
// if it has a deletionTimestamp. p itself may be in held; it is ignored there.
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
	if err := room(p, node, others); err != nil { // of those that are terminating
		return waitFor("Pods that are ending to make room", err)
	}
	return nil
}

// waitFor turns a rejection that time will change into a WaitError. The result is not a
// rejection any more, not even for errors.As.
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

// Fits returns which of the node's resources p requests too much of, beside the others.
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

// over reports whether the node lacks what is requested. A Pod that requests nothing
// always fits.
func over(asked, used, capacity int64) bool {
	return capacity > 0 && asked > 0 && asked+used > capacity
}

// outOf returns the rejection with the reason and message known to users of Kubernetes.
// cpu is in thousandths.
func outOf(what v1.ResourceName, asked, used, capacity int64) *pod.RejectError {
	return &pod.RejectError{
		Reason: "OutOf" + string(what),
		Message: fmt.Sprintf(rejected+"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			what, asked, used, capacity),
	}
}

// suits checks the Pod's own requirements on its node.
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
