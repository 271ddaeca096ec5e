package object

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Refused is a kind of the Kubernetes API that a node deliberately does not
// keep, and what its user can do instead.
type Refused struct {
	schema.GroupVersionKind
	Resource, Singular string
	ShortNames         []string
	All                bool
	Why                string
}

const (
	noControllers = "a node runs Pods and has no controllers; write its Pod template as a Pod"
	noNetwork     = "there are no Services on one node; give the Pod a hostPort, or use kubectl port-forward"
	noRBAC        = "the API of one node is for root alone, so nothing is granted to anybody; leave it out"
)

// RefusedKinds returns the kinds that users are known to try. The API lists them, so
// that users learn what to do rather than that the kind is unknown.
func RefusedKinds() []Refused {
	apps, batch := schema.GroupVersion{Group: "apps", Version: "v1"}, schema.GroupVersion{Group: "batch", Version: "v1"}
	core, rbac := schema.GroupVersion{Version: "v1"}, schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}
	networking := schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}
	return []Refused{
		{apps.WithKind("DaemonSet"), "daemonsets", "daemonset", []string{"ds"}, true, noControllers},
		{apps.WithKind("Deployment"), "deployments", "deployment", []string{"deploy"}, true, noControllers},
		{apps.WithKind("ReplicaSet"), "replicasets", "replicaset", []string{"rs"}, true, noControllers},
		{apps.WithKind("StatefulSet"), "statefulsets", "statefulset", []string{"sts"}, true, noControllers},
		{batch.WithKind("CronJob"), "cronjobs", "cronjob", []string{"cj"}, true, noControllers},
		{batch.WithKind("Job"), "jobs", "job", nil, true, noControllers},
		{core.WithKind("ReplicationController"), "replicationcontrollers", "replicationcontroller", []string{"rc"}, true, noControllers},
		{core.WithKind("Service"), "services", "service", []string{"svc"}, true, noNetwork},
		{networking.WithKind("Ingress"), "ingresses", "ingress", []string{"ing"}, false, noNetwork},
		{networking.WithKind("NetworkPolicy"), "networkpolicies", "networkpolicy", []string{"netpol"}, false, noNetwork},
		{rbac.WithKind("ClusterRole"), "clusterroles", "clusterrole", nil, false, noRBAC},
		{rbac.WithKind("ClusterRoleBinding"), "clusterrolebindings", "clusterrolebinding", nil, false, noRBAC},
		{rbac.WithKind("Role"), "roles", "role", nil, false, noRBAC},
		{rbac.WithKind("RoleBinding"), "rolebindings", "rolebinding", nil, false, noRBAC},
	}
}

// RefusedFor returns the entry of a kind, or nil.
func RefusedFor(gk schema.GroupKind) *Refused {
	for _, r := range RefusedKinds() {
		if r.GroupKind() == gk {
			return &r
		}
	}
	return nil
}

// Namespaced reports whether objects of the kind would be namespaced.
func (r *Refused) Namespaced() bool {
	return r.Kind != "ClusterRole" && r.Kind != "ClusterRoleBinding"
}
