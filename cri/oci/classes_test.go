package oci_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/cri/oci/class"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	blockIOOfPod  = "blockio.resources.beta.kubernetes.io/pod"
	blockIOOfMain = "blockio.resources.beta.kubernetes.io/container.main"
	rdtOfPod      = "rdt.resources.beta.kubernetes.io/pod"
)

// annotated is a Pod that chooses classes by annotations.
func annotated(as map[string]string) func(*runtimeapi.PodSandboxConfig) {
	return func(c *runtimeapi.PodSandboxConfig) { c.Annotations = as }
}

// loopDevice returns a block device of the test's own. The kernel removes it when it is
// closed for the last time, so even if the test is killed.
func loopDevice(t *testing.T) (path, numbers string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(err)
	defer content.Close()
	must(content.Truncate(1 << 20))
	control, err := os.Open("/dev/loop-control")
	must(err)
	defer control.Close()
	for range 50 {
		free, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(err)
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", free), os.O_RDWR, 0)
		must(err)
		how := unix.LoopConfig{Fd: uint32(content.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &how)
		if errors.Is(err, unix.EBUSY) { // somebody else was given it, too
			device.Close()
			continue
		}
		t.Cleanup(func() { device.Close() })
		must(err)
		var st unix.Stat_t
		must(unix.Fstat(int(device.Fd()), &st))
		return device.Name(), fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	t.Fatal("others take every loop device")
	return "", ""
}

// readLimit returns how many bytes per second the kernel lets a container read from the
// device, "" if there is no limit.
func (n *node) readLimit(sandbox, container, device string) string {
	n.t.Helper()
	file, field := "blkio.throttle.read_bps_device", ""
	if cgroup.Version() == 2 {
		file, field = "io.max", "rbps="
	}
	cg := n.sandboxCgroup(sandbox)
	if cgroup.IsUnit(cg) {
		cg = cgroup.Scope(cg, "nodekit", container)
	} else {
		cg += "/" + container
	}
	dirs, err := cgroup.Dirs(cg)
	n.must(err)
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // of another controller
		}
		n.must(err)
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); fields[0] == device {
				return strings.TrimPrefix(fields[1], field)
			}
		}
		return ""
	}
	n.t.Fatalf("none of %v has %s", dirs, file)
	return ""
}

// TestBlockIOClass: the limits of the container's class are in force, even after other
// limits have been changed, before and during its run.
func TestBlockIOClass(t *testing.T) {
	device, numbers := loopDevice(t)
	file := t.TempDir() + "/classes.yaml"
	t.Setenv(classFile, file)
	if err := os.WriteFile(file, []byte("Classes: {slow: [{Devices: ["+device+"], ThrottleReadBps: 1M}], slower: [{Devices: ["+device+"], ThrottleReadBps: 2k}]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	sandbox, cfg := n.sandbox("slow", annotated(map[string]string{blockIOOfPod: "slow", blockIOOfMain: "slower"}))
	change := func(id string, shares int64) {
		_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: shares}})
		n.must(err)
	}
	for name, want := range map[string]string{"main": "2000", "beside": "1000000", "free": ""} {
		id := n.create(sandbox, cfg, name, func(c *runtimeapi.ContainerConfig) {
			if name == "free" {
				c.Annotations = map[string]string{"io.kubernetes.cri.blockio-class": ""}
			}
		}, "sleep", "forever")
		change(id, 200)
		n.startContainer(id)
		if got := n.readLimit(sandbox, id, numbers); got != want {
			t.Errorf("%s may read %q bytes per second from %s, want %q", name, got, numbers, want)
		}
		change(id, 300)
		if got := n.readLimit(sandbox, id, numbers); got != want {
			t.Errorf("after an update %s may read %q bytes per second, want %q", name, got, want)
		}
	}
	n.removeSandbox(sandbox)
}

// TestClassRefused: a request for a class that does not exist fails with the reason and
// leaves nothing behind.
func TestClassRefused(t *testing.T) {
	file := t.TempDir() + "/classes.yaml"
	n := newNode(t)
	for i, tc := range []struct {
		classes, annotation string
		kind                fault.Kind
		says                string
	}{
		{"", blockIOOfPod, fault.FailedPrecondition, "--blockio-config-file"},
		{"Classes: {fast: []}", blockIOOfPod, fault.Invalid, `"fast"`},
		{"", rdtOfPod, fault.FailedPrecondition, "--rdt-class"},
	} {
		t.Setenv(classFile, "")
		if tc.classes != "" {
			n.must(os.WriteFile(file, []byte(tc.classes), 0o600))
			t.Setenv(classFile, file)
		}
		n.restart()
		sandbox, cfg := n.sandbox(fmt.Sprint("refused", i), annotated(map[string]string{tc.annotation: "none-such"}))
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"sleep", "forever"},
		}})
		if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), `"none-such"`) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q with the class and %s", tc.annotation, err, tc.kind, tc.says)
		}
		list, err := n.rs.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		n.must(err)
		for _, pattern := range []string{"/run/sandboxes/" + sandbox + "/bundle-*", "/cri/containers/*", "/run/roots/*"} {
			if left, _ := filepath.Glob(n.dir + pattern); len(left)+len(list.Containers) > 0 {
				t.Errorf("%s: left behind: %v and %v", tc.annotation, left, list.Containers)
			}
		}
		n.removeSandbox(sandbox)
	}
}

// TestClassesAtStart: a faulty file, and a name that no group can have, are refused by
// name at start and leave nothing behind.
func TestClassesAtStart(t *testing.T) {
	n := newNode(t)
	n.kill()
	images, err := image.Open(n.dir+"/images", nil)
	n.must(err)
	bad := n.dir + "/bad.yaml"
	n.must(os.WriteFile(bad, []byte("Classes: {slow: [{Weight: heavy}]}"), 0o600))
	for says, change := range map[string]func(*oci.Config){
		bad:         func(c *oci.Config) { c.BlockIOClasses = bad },
		`"a/group"`: func(c *oci.Config) { c.RDTClasses = []string{"a/group"} },
	} {
		cfg := n.cfg()
		cfg.Images = images
		cfg.StateDir, cfg.RunDir = n.dir+"/oci-bad", n.dir+"/run-bad"
		change(&cfg)
		if _, err := oci.New(t.Context(), cfg); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q with %s", err, fault.Invalid, says)
		}
		if left, _ := filepath.Glob(n.dir + "/*-bad"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestRDTClass: the spec has the group of the class. Whether the OCI runtime and the
// processor apply it has never been tested: that needs RDT.
func TestRDTClass(t *testing.T) {
	groups := t.TempDir()
	d := newDirect(t)
	d.must(os.Mkdir(groups+"/gold", 0o755))
	d.must(os.WriteFile(groups+"/gold/tasks", nil, 0o600))
	rdt, err := class.NewRDT([]string{"gold"}, func() (string, error) { return groups, nil })
	d.must(err)
	d.oci.OfferRDT(rdt)
	d.sandbox.Config.Annotations = map[string]string{rdtOfPod: "gold"}
	for id, own := range map[string]map[string]string{"gold": nil, "": {"io.kubernetes.cri.rdt-class": ""}} {
		c := d.create("c"+id, &runtimeapi.ContainerConfig{Args: []string{"sleep", "forever"}, Annotations: own})
		doc, ok := d.rt.Info.Container(t.Context(), c)["runtimeSpec"].(*specs.Spec)
		if !ok {
			t.Fatal("the container has no spec")
		}
		var group string
		if doc.Linux.IntelRdt != nil {
			group = doc.Linux.IntelRdt.ClosID
		}
		if group != id {
			t.Errorf("the spec has the group %q, want %q", group, id)
		}
		d.must(d.rt.RemoveContainer(t.Context(), c))
	}
}
