package table

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// eventColumns starts with the time, not the name, which says nothing.
func eventColumns() []metav1.TableColumnDefinition {
	list := columns("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+Count")
	name := list[0]
	name.Priority = 1
	return append(list[1:], name)
}

func eventCells(e *v1.Event, now time.Time) []any {
	first := cmp.Or(e.FirstTimestamp.Time, e.EventTime.Time)
	last := cmp.Or(e.LastTimestamp.Time, first)
	times := max(e.Count, 1)
	if e.Series != nil {
		times, last = e.Series.Count, e.Series.LastObservedTime.Time
	}
	source := cmp.Or(e.Source.Component, e.ReportingController)
	if e.Source.Host != "" {
		source += ", " + e.Source.Host
	}
	return []any{
		since(last, now), e.Type, e.Reason, strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name, e.InvolvedObject.FieldPath,
		source, strings.TrimSpace(e.Message), since(first, now), int64(times), e.Name,
	}
}

func nodeCells(n *v1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			status = map[v1.ConditionStatus]string{v1.ConditionTrue: "Ready", v1.ConditionFalse: "NotReady"}[c.Status]
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := &n.Status.NodeInfo
	return []any{
		n.Name, orUnknown(status), orNone(roles(n)), age(n, now), info.KubeletVersion, address(n, v1.NodeInternalIP), address(n, v1.NodeExternalIP),
		orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion),
	}
}

func roles(n *v1.Node) string {
	var list []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
			list = append(list, role)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func address(n *v1.Node, kind v1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}

func orUnknown(text string) string { return cmp.Or(text, "<unknown>") }

func claimCells(c *v1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[v1.ResourceStorage]
		capacity, modes = q.String(), accessModes(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes, value(c.Spec.StorageClassName), orUnset(value(c.Spec.VolumeAttributesClassName)),
		age(c, now), string(value(c.Spec.VolumeMode)),
	}
}

func volumeCells(p *v1.PersistentVolume, now time.Time) []any {
	phase := string(p.Status.Phase)
	if p.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	claim := ""
	if ref := p.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	q := p.Spec.Capacity[v1.ResourceStorage]
	return []any{
		p.Name, q.String(), accessModes(p.Spec.AccessModes), string(p.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		p.Spec.StorageClassName, orUnset(value(p.Spec.VolumeAttributesClassName)), p.Status.Reason, age(p, now), string(value(p.Spec.VolumeMode)),
	}
}

func orUnset(text string) string { return cmp.Or(text, "<unset>") }

// accessModes returns the modes in kubectl's abbreviations.
func accessModes(modes []v1.PersistentVolumeAccessMode) string {
	short := map[v1.PersistentVolumeAccessMode]string{
		v1.ReadWriteOnce: "RWO", v1.ReadOnlyMany: "ROX", v1.ReadWriteMany: "RWX", v1.ReadWriteOncePod: "RWOP",
	}
	var list []string
	for _, m := range modes {
		if s := short[m]; !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return strings.Join(list, ",")
}

func classCells(c *storagev1.StorageClass, now time.Time) []any {
	name := c.Name
	if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
		name += " (default)"
	}
	return []any{name, c.Provisioner, string(value(c.ReclaimPolicy)), string(value(c.VolumeBindingMode)), value(c.AllowVolumeExpansion), age(c, now)}
}

func driverCells(d *storagev1.CSIDriver, now time.Time) []any {
	var modes, audiences []string
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	for _, t := range d.Spec.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	return []any{
		d.Name, yesNo(d.Spec.AttachRequired), yesNo(d.Spec.PodInfoOnMount), yesNo(d.Spec.StorageCapacity), fmt.Sprint(orUnset(strings.Join(audiences, ","))),
		yesNo(d.Spec.RequiresRepublish), strings.Join(modes, ","), age(d, now),
	}
}
