package api

import (
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// selection is what a list or a watch selects.
type selection struct {
	kind      *object.Kind
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

// selected reads the selectors of a request. name restricts it to one object, for a
// watch of a single object.
func selected(t target, o *metav1.ListOptions) (*selection, error) {
	sel := &selection{kind: t.kind, namespace: t.namespace}
	var err error
	if sel.labels, err = labels.Parse(o.LabelSelector); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("labelSelector %q: %v", o.LabelSelector, err))
	}
	if sel.fields, err = fields.ParseSelector(o.FieldSelector); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("fieldSelector %q: %v", o.FieldSelector, err))
	}
	known := fieldsOf(t.kind.New())
	for _, r := range sel.fields.Requirements() {
		if _, ok := known[r.Field]; !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s cannot be selected by field %q", t.kind.Resource, r.Field))
		}
	}
	if t.name != "" {
		sel.fields = fields.AndSelectors(sel.fields, fields.OneTermEqualSelector("metadata.name", t.name))
	}
	return sel, nil
}

func (s *selection) matches(o object.Object) bool {
	return o != nil && (s.namespace == "" || o.GetNamespace() == s.namespace) &&
		(s.labels.Empty() || s.labels.Matches(labels.Set(o.GetLabels()))) && (s.fields.Empty() || s.fields.Matches(fieldsOf(o)))
}

// fieldsOf returns the fields by which an object can be selected, as in the Kubernetes
// API for its kind.
func fieldsOf(o object.Object) fields.Set {
	set := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	add := func(more fields.Set) {
		for k, v := range more {
			set[k] = v
		}
	}
	switch o := o.(type) {
	case *v1.Pod:
		add(fields.Set{
			"spec.nodeName": o.Spec.NodeName, "spec.restartPolicy": string(o.Spec.RestartPolicy), "spec.schedulerName": o.Spec.SchedulerName,
			"spec.serviceAccountName": o.Spec.ServiceAccountName, "spec.hostNetwork": strconv.FormatBool(o.Spec.HostNetwork),
			"status.phase": string(o.Status.Phase), "status.podIP": o.Status.PodIP, "status.nominatedNodeName": o.Status.NominatedNodeName,
		})
	case *v1.Event:
		of := &o.InvolvedObject
		add(fields.Set{
			"involvedObject.kind": of.Kind, "involvedObject.namespace": of.Namespace, "involvedObject.name": of.Name,
			"involvedObject.uid": string(of.UID), "involvedObject.apiVersion": of.APIVersion, "involvedObject.resourceVersion": of.ResourceVersion,
			"involvedObject.fieldPath": of.FieldPath, "reason": o.Reason, "reportingComponent": o.ReportingController, "source": o.Source.Component, "type": o.Type,
		})
	case *v1.Secret:
		add(fields.Set{"type": string(o.Type)})
	case *v1.Namespace:
		add(fields.Set{"status.phase": string(o.Status.Phase)})
	case *v1.Node:
		add(fields.Set{"spec.unschedulable": strconv.FormatBool(o.Spec.Unschedulable)})
	}
	return set
}
