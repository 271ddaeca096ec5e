package kubelet

import (
	"context"
	"errors"
	"maps"
	"os"
	"runtime"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	// statusEvery is how often the node's status is computed, and written if it has
	// changed; leaseEvery is how often its lease is renewed, and leaseFor how long a
	// lease is valid. All are as in the upstream kubelet.
	statusEvery = 10 * time.Second
	leaseEvery  = 10 * time.Second
	leaseFor    = 40 * time.Second
	// labelsWithin is how long a Pod's admission waits for the node's labels.
	labelsWithin = 2 * time.Second
	// leaseNamespace is the namespace of the nodes' leases.
	leaseNamespace = v1.NamespaceNodeLease
)

// register keeps the Node object and its lease up to date until ctx ends: its capacity,
// the software it runs, and whether its runtime is healthy.
func (k *Kubelet) register(ctx context.Context, version *runtimeapi.VersionResponse) error {
	tick := time.NewTicker(min(statusEvery, leaseEvery))
	defer tick.Stop()
	for {
		for what, err := range map[string]error{"writing the node's status": k.writeNode(ctx, version), "renewing the node's lease": k.renew(ctx)} {
			if err != nil && ctx.Err() == nil {
				k.config.Logger.Warn(what, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// writeNode creates the Node object, or updates its labels and status. It keeps what
// others wrote into it.
func (k *Kubelet) writeNode(ctx context.Context, version *runtimeapi.VersionResponse) error {
	var have v1.Node
	err := k.client.Get(ctx, "", k.config.NodeName, &have)
	missing := errors.Is(err, fault.NotFound)
	if err != nil && !missing {
		return err
	}
	next := have.DeepCopy()
	next.Name = k.config.NodeName
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, k.ownLabels())
	k.nodeStatus(&next.Status, version, k.healthy(ctx))
	switch {
	case missing:
		return k.client.Create(ctx, next)
	case equality.Semantic.DeepEqual(next, &have):
		return nil
	}
	return k.client.Update(ctx, next)
}

// ownLabels returns the labels that the kubelet sets on the Node object.
func (k *Kubelet) ownLabels() map[string]string {
	own := map[string]string{v1.LabelHostname: k.config.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH}
	maps.Copy(own, k.config.NodeLabels)
	return own
}

// labels returns the current labels of the Node object, including those of its users: a
// Pod that is created after its label must see it. While the API is unavailable, it
// returns the labels last seen.
func (k *Kubelet) labels(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, labelsWithin)
	defer cancel()
	var n v1.Node
	if err := k.client.Get(ctx, "", k.config.NodeName, &n); err == nil {
		k.labeled.Store(&n.Labels)
	}
	all := map[string]string{}
	if seen := k.labeled.Load(); seen != nil {
		maps.Copy(all, *seen)
	}
	maps.Copy(all, k.ownLabels())
	return all
}

func (k *Kubelet) nodeStatus(s *v1.NodeStatus, version *runtimeapi.VersionResponse, unwell error) {
	s.Capacity = v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(cpus(), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(memory(), resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(int64(k.config.MaxPods), resource.DecimalSI),
	}
	s.Allocatable = s.Capacity.DeepCopy()
	for name, r := range k.devices.Resources() {
		s.Capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(r.Capacity), resource.DecimalSI)
		s.Allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(r.Allocatable), resource.DecimalSI)
	}
	s.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: k.config.NodeName}}
	for _, ip := range nodeIPs() {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	s.NodeInfo = v1.NodeSystemInfo{
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, KernelVersion: firstLine("/proc/sys/kernel/osrelease"), OSImage: osName(),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), MachineID: firstLine("/etc/machine-id"),
		ContainerRuntimeVersion: version.GetRuntimeName() + "://" + version.GetRuntimeVersion(), KubeletVersion: "nodekit",
	}
	setReady(s, unwell, metav1.Now().Rfc3339Copy())
}

// setReady sets the condition Ready. The lease is its heartbeat, so the condition is
// written only when it changes.
func setReady(s *v1.NodeStatus, unwell error, now metav1.Time) {
	next := v1.NodeCondition{
		Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "the runtime answers and its conditions are true",
		LastTransitionTime: now, LastHeartbeatTime: now,
	}
	if unwell != nil {
		next.Status, next.Reason, next.Message = v1.ConditionFalse, "KubeletNotReady", unwell.Error()
	}
	for i := range s.Conditions {
		have := &s.Conditions[i]
		if have.Type != v1.NodeReady {
			continue
		}
		if have.Status == next.Status {
			next.LastTransitionTime = have.LastTransitionTime
			if have.Message == next.Message {
				next.LastHeartbeatTime = have.LastHeartbeatTime
			}
		}
		*have = next
		return
	}
	s.Conditions = append(s.Conditions, next)
}

// renew renews the lease that shows that the node is alive.
func (k *Kubelet) renew(ctx context.Context) error {
	var lease coordinationv1.Lease
	err := k.client.Get(ctx, leaseNamespace, k.config.NodeName, &lease)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	now, seconds := metav1.NowMicro(), int32(leaseFor/time.Second)
	holder := k.config.NodeName // a copy: the API's answer is read into the lease
	lease.Namespace, lease.Name = leaseNamespace, holder
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &holder, &seconds, &now
	if err != nil {
		return k.client.Create(ctx, &lease)
	}
	return k.client.Update(ctx, &lease)
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// osName returns the distribution's pretty name (os-release(5)).
func osName() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return ""
}
