package crisuite

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// In Target.Exec, Target.Env and Target.Load, Endpoint, Root and Archive stand for what
// the suite gives the runtime; in Target.Pinned, Registry stands for the suite's registry.
const (
	Endpoint = "$(CONTAINER_RUNTIME_ENDPOINT)"
	Root     = "$(STATE_DIRECTORY)"
	Archive  = "$(ARCHIVE)"
	Registry = "$(REGISTRY)"
)

// Target is the runtime under test: a program or a socket.
type Target struct {
	// Exec is a program and its arguments. It gets what a node's init system gives a
	// runtime, in its environment, and in its arguments for "$(NAME)":
	//
	//	CONTAINER_RUNTIME_ENDPOINT  the socket to serve on, unix:///...
	//	STATE_DIRECTORY             an empty directory for what must survive a restart
	Exec []string
	// Env is added to the environment of Exec, as NAME=value, with "$(NAME)"
	// replaced, too.
	Env []string
	// Endpoint is the socket of a runtime that already runs. Rules that kill the runtime
	// do not apply then. It is used when Exec is empty.
	Endpoint string
	// Program is the path of podtool, statically linked. If empty, the suite looks next
	// to this program and in PATH, and otherwise builds it if Go is installed.
	Program string
	// Load is a command that loads the images of the archive "$(ARCHIVE)" into a runtime
	// that lacks Pull. It is run by /bin/sh with the variables of Exec.
	Load string
	// Image is an image that the runtime has, and Tool the path of podtool in it, for a
	// runtime that accepts no other images: its containers may be processes of the host.
	// Empty means the suite's own images.
	Image, Tool string
	// NRI is the socket where the runtime's NRI plugins connect, with
	// "$(STATE_DIRECTORY)" replaced if the suite starts the runtime. Empty means that the
	// runtime has no NRI plugins, and rules about them do not apply.
	NRI string
	// Pinned is an image that the runtime exempts from garbage collection. With
	// "$(REGISTRY)" for the suite's registry, it is one below "$(REGISTRY)/unique/", which
	// the suite pulls, and removes; any other one must be present. Empty means that the
	// runtime pins none, and the rule about it does not apply.
	Pinned string
	// Lacks are the features that the runtime does not have.
	Lacks []Feature

	house *house // of the run; set by Suite.Open
}

// Feature is a part of the CRI that a runtime may lack if its author says so.
type Feature string

// The features.
const (
	Containers         Feature = "containers"         // runs containers at all
	Pull               Feature = "pull"               // pulls, lists and removes images
	Isolation          Feature = "isolation"          // containers have files, users and namespaces of their own
	Exec               Feature = "exec"               // ExecSync
	Streaming          Feature = "streaming"          // Exec and Attach
	PortForward        Feature = "portForward"        // PortForward
	Stats              Feature = "stats"              // ContainerStats
	Resources          Feature = "resources"          // limits of containers
	Swap               Feature = "swap"               // limits and stats of swap, if the machine's cgroups limit it
	LogRotation        Feature = "logRotation"        // ReopenContainerLog
	HostPorts          Feature = "hostPorts"          // port mappings
	SharedPID          Feature = "sharedPID"          // the PID mode POD
	TargetPID          Feature = "targetPID"          // the PID mode TARGET
	Seccomp            Feature = "seccomp"            // seccomp profiles
	Propagation        Feature = "propagation"        // mounts that propagate
	ImageVolumes       Feature = "imageVolumes"       // images as volumes
	MountOptions       Feature = "mountOptions"       // Mount.mount_options
	CDI                Feature = "cdi"                // CDI devices
	StopSignals        Feature = "stopSignals"        // ContainerConfig.stop_signal
	SupplementalGroups Feature = "supplementalGroups" // SupplementalGroupsPolicy and ContainerUser
	AmbientCaps        Feature = "ambientCaps"        // ambient capabilities
	ImageIdentity      Feature = "imageIdentity"      // one image id in all answers, as since 1.36
	Survival           Feature = "survival"           // containers outlive the runtime
	HostProcesses      Feature = "hostProcesses"      // containers' programs are processes of this machine, with the containers' variables
	Checkpoint         Feature = "checkpoint"         // checkpoints succeed, for which the node may need CRIU
	SELinux            Feature = "selinux"            // labels for containers, if SELinux is enabled on the machine
	NRI                Feature = "nri"                // NRI plugins; a runtime that has them declares their socket
)

// features returns all of them.
func features() []Feature {
	return []Feature{
		Containers, Pull, Isolation, Exec, Streaming, PortForward, Stats, Resources, Swap, LogRotation, HostPorts, SharedPID, TargetPID, Seccomp,
		Propagation, ImageVolumes, MountOptions, CDI, StopSignals, SupplementalGroups, AmbientCaps, ImageIdentity, Survival,
		HostProcesses, Checkpoint, SELinux, NRI,
	}
}

func facts() map[string]string {
	return map[string]string{
		"lacks":   fmt.Sprintf("features that the runtime does not have, separated by commas: %s", join(features(), ", ")),
		"load":    "a shell command that puts the images of $(ARCHIVE) into a runtime that lacks pull",
		"image":   "an image that the runtime has, for one that takes no others",
		"tool":    "the path of podtool in that image",
		"program": "the path of podtool, statically linked, where nodekit does not find it",
		"pinned":  "an image that the runtime pins: one that is present, or one that the suite can pull, $(REGISTRY)/unique/NAME:TAG",
		"nri":     "the socket where NRI plugins connect, an absolute path or one below $(STATE_DIRECTORY)",
	}
}

func join[T ~string](list []T, separator string) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, separator)
}

// Declare copies what a profile declares into the target. A nil profile declares nothing.
func (t *Target) Declare(profile *conformance.Profile) error {
	for name, field := range map[string]*string{"load": &t.Load, "image": &t.Image, "tool": &t.Tool, "program": &t.Program, "nri": &t.NRI, "pinned": &t.Pinned} {
		if value, declared := profile.Fact(name); declared {
			*field = value
		}
	}
	for _, name := range profile.List("lacks") {
		t.Lacks = append(t.Lacks, Feature(name))
	}
	return t.validate()
}

func (t *Target) validate() error {
	for _, f := range t.Lacks {
		if !slices.Contains(features(), f) {
			return fmt.Errorf("fact lacks: %q is none of %s", f, join(features(), ", "))
		}
	}
	if (t.Image == "") != (t.Tool == "") {
		return fmt.Errorf("facts image and tool: one is %q, the other %q, and they go together", t.Image, t.Tool)
	}
	if name, ours := strings.CutPrefix(t.Pinned, Registry+"/"); ours && !strings.HasPrefix(name, uniqueRepo) {
		return fmt.Errorf("fact pinned: %q: the suite has images of any name below %s/%s only", t.Pinned, Registry, uniqueRepo)
	}
	return t.validateNRI()
}

func (t *Target) validateNRI() error {
	below := strings.HasPrefix(t.NRI, Root+"/")
	switch {
	case t.NRI == "":
		return nil
	case slices.Contains(t.Lacks, NRI):
		return fmt.Errorf("facts nri and lacks: one names the socket %q, and the other says that there is none", t.NRI)
	case below && len(t.Exec) == 0:
		return fmt.Errorf("fact nri: %q: a runtime that runs already has no %s", t.NRI, Root)
	case !below && !filepath.IsAbs(t.NRI):
		return fmt.Errorf("fact nri: %q is no absolute path, and not below %s", t.NRI, Root)
	}
	return nil
}

// missing returns NotApplicable for the first need that the target lacks. Containers come
// before everything that is done with them.
func (t *Target) missing(needs []Feature) error {
	lacks := slices.Clone(t.Lacks)
	if t.Image != "" {
		lacks = append(lacks, Pull) // the runtime does not have the suite's images
	}
	for _, f := range needs {
		if f != Pull && f != HostPorts && slices.Contains(lacks, Containers) {
			f = Containers
		}
		if f == NRI && t.NRI == "" {
			return conformance.NotApplicable("the runtime's author names no socket of NRI plugins (fact nri)")
		}
		if slices.Contains(lacks, f) {
			return conformance.NotApplicable("the runtime's author declares that it lacks %q", f)
		}
	}
	return nil
}
