// Package checkpoint is what a checkpoint of a Pod is on the disk (cri-api v0.37
// CheckpointPod: "a collection of runtime-defined files"):
//
//	pod.json               what it is of, and every other file with its size; written last
//	shm.tar                what was in the /dev/shm of the Pod, if it had its own
//	containers/N/images/   what criu has written of container N of pod.json
//	containers/N/spec.json the spec that it ran with, whole
//	containers/N/rootfs.tar what it had changed in its root file system (changeset)
//
// A directory that is read may have come from anywhere. No path in it is taken from
// pod.json, no link is followed, nothing is there that pod.json does not tell of, and
// nothing is missing or of another size. But what is in criu's images is for criu
// alone to judge, which makes every process that they describe, with the privileges
// that they say: so whoever can write to the directory is as powerful as root, and a
// directory that others than root could write to is refused. Who can write to one above it
// can put another one that is root's alone into its place before it is opened, and nothing
// behind that.
package checkpoint

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Version is that of the format.
const Version = 1

// Pod is the content of pod.json. Whoever writes a checkpoint fills in all but Version
// and Files.
type Pod struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	// Engine is the name of the OCI runtime, whose images no other one can read.
	Engine string `json:"engine"`
	// Arch is the machine's architecture, as Go names it. Criu and Kernel are versions,
	// for whoever looks for the reason of a restore that fails.
	Arch   string `json:"arch"`
	Criu   string `json:"criu"`
	Kernel string `json:"kernel"`
	// Sandbox is the Pod's config in protobuf's JSON.
	Sandbox    json.RawMessage  `json:"sandbox"`
	Containers []Container      `json:"containers"`
	Files      map[string]int64 `json:"files"` // sizes by path
}

// Container is what nothing else in the checkpoint says of a container.
type Container struct {
	Name    string `json:"name"`
	ImageID string `json:"imageID"`
	Stdin   bool   `json:"stdin"` // its standard input is a pipe
}

// Shm is the file with the content of /dev/shm.
const Shm = "shm.tar"

// description is the file with the Pod.
const description = "pod.json"

// Images is the directory of criu's images of container n.
func Images(n int) string { return path.Join(containerDir(n), imagesDir) }

// Spec is the file with the spec of container n.
func Spec(n int) string { return path.Join(containerDir(n), specFile) }

// Changes is the file with what container n changed in its root file system.
func Changes(n int) string { return path.Join(containerDir(n), changesFile) }

const (
	containersDir = "containers"
	imagesDir     = "images"
	specFile      = "spec.json"
	changesFile   = "rootfs.tar"
)

func containerDir(n int) string { return path.Join(containersDir, strconv.Itoa(n)) }

const (
	// maxDescription bounds what is read of pod.json, and maxSpec of a spec.
	maxDescription = 16 << 20
	maxSpec        = 8 << 20
	// maxContainers is more than any Pod has.
	maxContainers = 1000
)

// check returns what is wrong with a description.
func (p *Pod) check() error {
	if n := len(p.Containers); n == 0 || n > maxContainers {
		return fault.Invalid.Errorf("%s has %d containers", description, n)
	}
	seen := map[string]bool{}
	for i, c := range p.Containers {
		if c.Name == "" || c.ImageID == "" || seen[c.Name] {
			return fault.Invalid.Errorf("%s: container %d has no name or image, or the name %q is there twice", description, i, c.Name)
		}
		seen[c.Name] = true
	}
	for name, size := range p.Files {
		if !p.knows(name) || size < 0 {
			return fault.Invalid.Errorf("%s: %q with %d bytes is no file of a checkpoint", description, name, size)
		}
	}
	return p.complete()
}

// knows reports whether a checkpoint of these containers can have a file of the name.
func (p *Pod) knows(name string) bool {
	if name == Shm {
		return true
	}
	parts := strings.Split(name, "/")
	if len(parts) < 3 || parts[0] != containersDir {
		return false
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil || n < 0 || n >= len(p.Containers) || strconv.Itoa(n) != parts[1] {
		return false
	}
	if len(parts) == 3 {
		return parts[2] == specFile || parts[2] == changesFile
	}
	image := parts[3]
	return len(parts) == 4 && parts[2] == imagesDir && image != "" && image != "." && image != ".."
}

// complete reports what every checkpoint has and this one lacks.
func (p *Pod) complete() error {
	for i, c := range p.Containers {
		for _, name := range []string{Spec(i), Changes(i)} {
			if _, ok := p.Files[name]; !ok {
				return fault.Invalid.Errorf("%s of container %q: it has no %s", description, c.Name, name)
			}
		}
		if len(p.images(i)) == 0 {
			return fault.Invalid.Errorf("%s of container %q: it has no images", description, c.Name)
		}
	}
	return nil
}

// images returns the names of criu's images of container n.
func (p *Pod) images(n int) (names []string) {
	prefix := Images(n) + "/"
	for name := range p.Files {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			names = append(names, rest)
		}
	}
	return names
}

// Find returns the number of the container with the name, or -1.
func (p *Pod) Find(name string) int {
	for i, c := range p.Containers {
		if c.Name == name {
			return i
		}
	}
	return -1
}

// decode reads a description. One of a later version is known as that whatever else
// it has.
func decode(text []byte) (*Pod, error) {
	var v struct{ Version int }
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", description, err)
	}
	if v.Version != Version {
		return nil, fault.FailedPrecondition.Errorf("%s has version %d, and this program reads %d: restore it with the version that wrote it", description, v.Version, Version)
	}
	var p Pod
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", description, err)
	}
	return &p, p.check()
}

func encode(p *Pod) ([]byte, error) {
	p.Version = Version
	text, err := json.Marshal(p)
	if err == nil && len(text) > maxDescription {
		err = fmt.Errorf("%s has %d bytes, and must not have more than %d", description, len(text), maxDescription)
	}
	return text, err
}
