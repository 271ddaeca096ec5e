// Package class gives containers the classes of service that Pods choose for
// them by annotation: block I/O classes, which an administrator describes in a
// file, and RDT classes, which are groups in the kernel's resctrl file system.
//
// The annotations are those that containerd and CRI-O know. The most particular
// one counts: the container's own, then the Pod's for the container of that name,
// then the Pod's for all. One with an empty value is for no class, so that it can
// except a container from what its Pod says.
//
// The package changes nothing on the machine: what a class means goes into a
// container's spec, and the OCI runtime applies it. All of it is safe for
// concurrent use.
package class

import (
	"fmt"
	"slices"
	"strings"

	"github.com/intel/goresctrl/pkg/blockio"
	"github.com/intel/goresctrl/pkg/kubernetes"
)

// Container is by what a container's classes are chosen.
type Container struct {
	Name string
	// Annotations are the container's own, Pod its sandbox's.
	Annotations, Pod map[string]string
}

// BlockIO is the block I/O class that is chosen for the container, "" for none.
func (c Container) BlockIO() string {
	return c.chosen(blockio.BlockioContainerAnnotation, blockio.BlockioPodAnnotation, blockio.BlockioPodAnnotationContainerPrefix)
}

// The annotations as goresctrl's rdt package names them, which is not linked: see
// NewRDT.
const (
	rdtContainer    = "io.kubernetes.cri.rdt-class"
	rdtPod          = "rdt.resources.beta.kubernetes.io/pod"
	rdtPodContainer = "rdt.resources.beta.kubernetes.io/container."
)

// RDT is the RDT class that is chosen for the container, "" for none.
func (c Container) RDT() string { return c.chosen(rdtContainer, rdtPod, rdtPodContainer) }

func (c Container) chosen(own, pod, podContainer string) string {
	name, _ := kubernetes.ContainerClassFromAnnotations(own, pod, podContainer, c.Name, c.Annotations, c.Pod)
	return name
}

// list names classes for who may have mistyped one.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	var quoted []string
	for _, n := range slices.Sorted(slices.Values(names)) {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	return strings.Join(quoted, ", ")
}
