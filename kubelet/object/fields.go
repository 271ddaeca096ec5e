package object

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// class says what happens to a field that a manifest sets.
type class struct {
	works bool
	why   string // for a field that does not work: why it is harmless
}

// A field is rejected by name if the table has neither it nor a parent of it. An entry
// applies to everything below it. Lists are written as name[].
const (
	worksTable = `
apiVersion kind metadata.name metadata.namespace metadata.labels metadata.annotations
spec.restartPolicy spec.terminationGracePeriodSeconds spec.activeDeadlineSeconds
spec.imagePullSecrets spec.dnsPolicy spec.dnsConfig spec.hostname spec.subdomain spec.hostAliases
spec.hostNetwork spec.hostPID spec.hostIPC spec.shareProcessNamespace spec.runtimeClassName
spec.securityContext.runAsUser spec.securityContext.runAsGroup spec.securityContext.runAsNonRoot
spec.securityContext.supplementalGroups spec.securityContext.supplementalGroupsPolicy spec.securityContext.fsGroup spec.securityContext.fsGroupChangePolicy
spec.securityContext.seccompProfile
spec.nodeSelector spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
spec.securityContext.seLinuxOptions spec.securityContext.sysctls
spec.volumes[].name spec.volumes[].emptyDir spec.volumes[].hostPath spec.volumes[].configMap spec.volumes[].secret
spec.volumes[].projected spec.volumes[].downwardAPI spec.volumes[].persistentVolumeClaim spec.volumes[].csi
spec.resources.limits spec.resources.requests
spec.initContainers[].restartPolicy`

	containerTable = `
name image command args workingDir imagePullPolicy stdin stdinOnce tty terminationMessagePath terminationMessagePolicy
ports env[].name env[].value env[].valueFrom.fieldRef env[].valueFrom.resourceFieldRef env[].valueFrom.configMapKeyRef
env[].valueFrom.secretKeyRef envFrom resources.limits resources.requests resizePolicy
volumeMounts[].name volumeMounts[].mountPath volumeMounts[].readOnly volumeMounts[].subPath volumeMounts[].subPathExpr
volumeMounts[].mountPropagation
livenessProbe readinessProbe startupProbe lifecycle.postStart lifecycle.preStop lifecycle.stopSignal
securityContext.runAsUser securityContext.runAsGroup securityContext.runAsNonRoot securityContext.privileged
securityContext.allowPrivilegeEscalation securityContext.readOnlyRootFilesystem securityContext.capabilities
securityContext.seccompProfile securityContext.seLinuxOptions securityContext.procMount`

	noCluster   = "there is no scheduler on one node"
	noToken     = "there is no API server whose token a Pod could use"
	fromServer  = "the node sets it itself"
	noResources = "there are no Services on one node"
)

func harmlessTable() map[string]string {
	return map[string]string{
		"status": fromServer, "metadata.uid": fromServer, "metadata.creationTimestamp": fromServer, "metadata.resourceVersion": fromServer,
		"metadata.generation": fromServer, "metadata.managedFields": fromServer, "metadata.selfLink": fromServer,
		"metadata.ownerReferences": "the owner is not here",
		"spec.nodeName":            "every Pod of this directory runs on this node",
		"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution": noCluster,
		"spec.affinity.podAffinity": noCluster, "spec.affinity.podAntiAffinity": noCluster, "spec.tolerations": noCluster, "spec.schedulerName": noCluster,
		"spec.topologySpreadConstraints": noCluster, "spec.priority": noCluster, "spec.priorityClassName": noCluster, "spec.preemptionPolicy": noCluster,
		"spec.serviceAccountName": noToken, "spec.serviceAccount": noToken, "spec.automountServiceAccountToken": noToken, "spec.enableServiceLinks": noResources,
		"spec.os": "the node runs Linux",
	}
}

// podTable returns the classes of a Pod's fields by path.
func podTable() map[string]class {
	table := map[string]class{}
	for path, why := range harmlessTable() {
		table[path] = class{why: why}
	}
	for path := range strings.FieldsSeq(worksTable) {
		table[path] = class{works: true}
	}
	for name := range containerFields() {
		table["spec.containers[]."+name] = class{works: true}
		table["spec.initContainers[]."+name] = class{works: true}
	}
	return table
}

// containerFields yields the supported fields of a container.
func containerFields() iter.Seq[string] { return strings.FieldsSeq(containerTable) }

// classify checks every field that a Pod sets.
func classify(o Object) ([]Notice, error) {
	p, ok := o.(*v1.Pod)
	if !ok {
		return nil, nil
	}
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		return nil, err
	}
	object := Name(p)
	c := &classifier{table: podTable(), object: object, said: map[string]bool{}}
	c.walk("", "", tree)
	return append(c.notices, unenforced(object, p)...), errors.Join(c.errs...)
}

type classifier struct {
	table   map[string]class
	object  string
	said    map[string]bool
	notices []Notice
	errs    []error
}

// walk visits a value. path is its path as in the table; shown is the path for users,
// with list indices.
func (c *classifier) walk(path, shown string, value any) {
	if empty(value) {
		return
	}
	if entry, ok := c.table[path]; ok {
		if !entry.works {
			c.notice(path, entry.why)
		}
		return
	}
	if path != "" && !c.knows(path) {
		c.refuse(shown)
		return
	}
	switch v := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			c.walk(join(path, name), join(shown, name), v[name])
		}
	case []any:
		for i, item := range v {
			c.walk(path+"[]", fmt.Sprintf("%s[%d]", shown, i), item)
		}
	}
}

// empty reports whether the value is that of a field that was not set.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// knows reports whether the table has an entry below the path.
func (c *classifier) knows(path string) bool {
	for have := range c.table {
		if strings.HasPrefix(have, path+".") || strings.HasPrefix(have, path+"[]") {
			return true
		}
	}
	return false
}

func (c *classifier) refuse(shown string) {
	if shown == "spec.ephemeralContainers" {
		c.errs = append(c.errs, fault.Invalid.Errorf(
			"field %s cannot be set when a Pod is created: remove it, and add ephemeral containers to the Pod while it runs", shown))
		return
	}
	c.errs = append(c.errs, fault.Unimplemented.Errorf("field %s is not supported by nodekit: remove it", shown))
}

func (c *classifier) notice(path, why string) {
	if !c.said[path] {
		c.said[path] = true
		c.notices = append(c.notices, Notice{Object: c.object, Field: path, Why: why})
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
