package admission

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// mismatch returns why the Pod is not meant for this node, or "".
func mismatch(s *v1.PodSpec, node Node) string {
	if s.NodeName != "" && s.NodeName != node.Name {
		return fmt.Sprintf("spec.nodeName is %q, and this node is %q", s.NodeName, node.Name)
	}
	required := requiredAffinity(s)
	if len(s.NodeSelector) == 0 && required == nil {
		return ""
	}
	var have labels.Set
	if node.Labels != nil {
		have = node.Labels()
	}
	for key, want := range s.NodeSelector {
		if value, ok := have[key]; !ok || value != want {
			return fmt.Sprintf("spec.nodeSelector wants the label %s=%s, which this node does not have", key, want)
		}
	}
	if required == nil || slices.ContainsFunc(required.NodeSelectorTerms, func(t v1.NodeSelectorTerm) bool { return matches(&t, node.Name, have) }) {
		return ""
	}
	return "this node matches none of the nodeSelectorTerms of its required node affinity"
}

func requiredAffinity(s *v1.PodSpec) *v1.NodeSelector {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}

// matches reports whether the node meets every requirement of the term. A term without
// requirements matches nothing, as in the Kubernetes API.
func matches(t *v1.NodeSelectorTerm, node string, have labels.Set) bool {
	if len(t.MatchExpressions)+len(t.MatchFields) == 0 {
		return false
	}
	for _, r := range t.MatchExpressions {
		if !meets(r, have) {
			return false
		}
	}
	for _, r := range t.MatchFields { // metadata.name is the only field there is
		if !meets(r, labels.Set{"metadata.name": node}) {
			return false
		}
	}
	return true
}

func meets(r v1.NodeSelectorRequirement, have labels.Set) bool {
	operator, ok := map[v1.NodeSelectorOperator]selection.Operator{
		v1.NodeSelectorOpIn: selection.In, v1.NodeSelectorOpNotIn: selection.NotIn, v1.NodeSelectorOpExists: selection.Exists,
		v1.NodeSelectorOpDoesNotExist: selection.DoesNotExist, v1.NodeSelectorOpGt: selection.GreaterThan, v1.NodeSelectorOpLt: selection.LessThan,
	}[r.Operator]
	if !ok {
		return false
	}
	requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
	return err == nil && requirement.Matches(have)
}
