package pod

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Labels and annotations on sandboxes and containers. They are the kubelet's record of
// what it created, kept by the runtime; recovery reads nothing else. The io.kubernetes
// names are those of the upstream kubelet, so that crictl and log collectors understand
// nodekit's Pods.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
	// LabelNode is the node that owns the object, so that two nodes can share a runtime
	// and neither terminates the other's Pods.
	LabelNode = "nodekit.dev/node"

	AnnotationHash              = "io.kubernetes.container.hash"
	AnnotationRestartCount      = "io.kubernetes.container.restartCount"
	AnnotationTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	// AnnotationTerminationFile is the host path of the termination message file.
	AnnotationTerminationFile = "nodekit.dev/termination-message-file"
	// AnnotationDelay is the restart delay in force after the instance ends, as a Go
	// duration. It makes back-off persistent: a restarted node continues where the old
	// one was.
	AnnotationDelay = "nodekit.dev/restart-delay"
	// AnnotationResources is the JSON of the resources that the instance was
	// created with.
	AnnotationResources = "nodekit.dev/resources"
)

// Annotations on Pods that came from a manifest file.
const (
	AnnotationSource = "kubernetes.io/config.source" // "file"
	AnnotationHashOf = "kubernetes.io/config.hash"   // of the object as the file has it
	AnnotationFile   = "nodekit.dev/manifest"        // the file's name in its directory
	AnnotationFileOf = "nodekit.dev/manifest-object" // the object's kind and name, to distinguish it from a copy
)

// Hash identifies the part of a container's spec whose change restarts it: its name,
// and its image, which the Pod API lets users change. More fields would restart
// containers when the API's types gain a default.
func Hash(c *v1.Container) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", c.Name, c.Image))
	return hex.EncodeToString(sum[:8])
}

// LogDirectory is the Pod's directory below the log root.
func LogDirectory(p *v1.Pod) string {
	return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID)
}

// LogPath is the path of a container's log file below the Pod's log directory.
func LogPath(container string, attempt uint32) string {
	return fmt.Sprintf("%s/%d.log", container, attempt)
}
