package oci_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestHandlers: a Pod's containers, its first process and an exec are run by the OCI
// runtime of its handler, even after a restart; an unknown handler is refused.
func TestHandlers(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Runc)
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	// A path of its own, to distinguish it from the default one.
	other := filepath.Join(t.TempDir(), "other-runc")
	if err := os.Symlink(path, other); err != nil {
		t.Fatal(err)
	}
	t.Setenv(handler, other)
	n := newNode(t)
	status, err := n.rs.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	n.must(err)
	if hs := status.RuntimeHandlers; len(hs) != 2 || hs[1].Name != "other" || !hs[1].Features.UserNamespaces || !strings.Contains(fmt.Sprint(status.Info), other) {
		t.Errorf("the handlers are %v, the info %v", hs, status.Info)
	}
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "h", Namespace: "test", Uid: "h"}, LogDirectory: n.dir + "/logs/h",
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}},
	}
	if _, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: "none"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("an unknown handler: %v, want %q", err, fault.Invalid)
	}
	sandbox, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: "other"})
	n.must(err)
	id := n.create(sandbox.PodSandboxId, cfg, "main", nil, "sleep", "forever")
	n.restart()
	n.startContainer(id)
	if out, code := n.exec(id, "/podtool", "do", "echo ran"); out != "ran\n" || code != 0 {
		t.Errorf("an exec printed %q and ended with %d", out, code)
	}
	st, err := n.rs.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	n.must(err)
	for _, want := range []string{other, fmt.Sprint(n.pidOf(id)), "ociVersion"} {
		if info := fmt.Sprint(st.Info); !strings.Contains(info, want) {
			t.Errorf("the verbose status lacks %q: %s", want, info)
		}
	}
	if st.Status.User.GetLinux() == nil || st.Status.StopSignal != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("its user is %v and its stop signal %v", st.Status.User, st.Status.StopSignal)
	}
	n.removeSandbox(sandbox.PodSandboxId)
}

// TestWrongPrograms: an OCI runtime or a keeper that is missing, or is another program, is
// refused at start by name, and leaves nothing behind but a log.
func TestWrongPrograms(t *testing.T) {
	n := newNode(t)
	n.kill()
	images, err := image.Open(n.dir+"/images", nil)
	n.must(err)
	text := filepath.Join(t.TempDir(), "text")
	n.must(os.WriteFile(text, []byte("no program"), 0o644))
	handler := func(path string) func(*oci.Config) {
		return func(c *oci.Config) { c.Handlers = map[string]string{"fast": path} }
	}
	runtime := func(path string) func(*oci.Config) { return func(c *oci.Config) { c.Runtime = path } }
	keeper := func(path string) func(*oci.Config) { return func(c *oci.Config) { c.Keeper = path } }
	for name, c := range map[string]struct {
		change func(*oci.Config)
		want   []string
	}{
		"missing handler":            {handler("/no/such/runtime"), []string{`"fast"`, "/no/such/runtime"}},
		"handler that fails":         {handler("/bin/false"), []string{`"fast"`, "/bin/false"}},
		"handler that does nothing":  {handler("/bin/true"), []string{`"fast"`, "/bin/true", "is it an OCI runtime?"}},
		"missing runtime":            {runtime("no-default"), []string{`the OCI runtime "no-default" cannot be executed`}},
		"runtime without permission": {runtime(text), []string{text, "permission denied"}},
		"runtime that fails":         {runtime("/bin/false"), []string{`the OCI runtime "/bin/false" does not work`}},
		"runtime that does nothing":  {runtime("/bin/true"), []string{`the OCI runtime "/bin/true" does not work`, "is it an OCI runtime?"}},
		"missing keeper":             {keeper("/no/such/keeper"), []string{"/no/such/keeper", "build cmd/keeper"}},
		"keeper without permission":  {keeper(text), []string{text, "permission denied"}},
		"keeper that fails":          {keeper("/bin/false"), []string{`"/bin/false" is not nodekit's keeper`}},
		"keeper that does nothing":   {keeper("/bin/true"), []string{`"/bin/true" is not nodekit's keeper`}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := n.cfg()
			cfg.Images = images
			cfg.StateDir, cfg.RunDir = n.dir+"/oci-missing", n.dir+"/run-missing"
			c.change(&cfg)
			r, err := oci.New(t.Context(), cfg)
			if r != nil {
				if err := r.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if !errors.Is(err, fault.FailedPrecondition) {
				t.Fatalf("got %v, want %q", err, fault.FailedPrecondition)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s in it", err, want)
				}
			}
			for _, pattern := range []string{"/run-missing/*/*", "/oci-missing/*/*"} {
				left, _ := filepath.Glob(n.dir + pattern)
				left = slices.DeleteFunc(left, func(path string) bool { return path == n.dir+"/oci-missing/keeper/log" })
				if len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			}
		})
	}
}

// TestCDI: a device of a CDI spec brings its node, its environment and its
// mounts, named by field or by annotation.
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(cdiDir, dir)
	n := newNode(t)
	n.must(os.WriteFile(dir+"/spec.json", []byte(`{"cdiVersion":"0.6.0","kind":"nodekit.dev/thing","devices":[{"name":"one","containerEdits":{
"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/full","permissions":"r"}],"env":["THING=one"],
"mounts":[{"hostPath":"`+dir+`","containerPath":"/things","options":["ro","rbind"]}]}}]}`), 0o600))
	sandbox, cfg := n.sandbox("cdi", nil)
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"field": func(c *runtimeapi.ContainerConfig) {
			c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "nodekit.dev/thing=one"}}
		},
		"annotation": func(c *runtimeapi.ContainerConfig) {
			c.Annotations = map[string]string{"cdi.k8s.io/x": "nodekit.dev/thing=one"}
		},
	} {
		id := n.create(sandbox, cfg, name, change, "do", "stat-device /dev/thing", "env", "cat /things/spec.json", "sleep forever")
		n.startContainer(id)
		n.waitLog("cdi", name, "containerEdits")
		for _, want := range []string{"character 1:7\n", "THING=one\n"} {
			if log := n.logOf("cdi", name); !strings.Contains(log, want) {
				t.Errorf("%s: the container printed %q, want %q in it", name, log, want)
			}
		}
	}
	n.must(os.WriteFile(dir+"/two.json", []byte(`{"cdiVersion":"0.6.0","kind":"nodekit.dev/thing","devices":[{"name":"two"]}`), 0o600))
	_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "x"}, Image: &runtimeapi.ImageSpec{Image: imageName}, CDIDevices: []*runtimeapi.CDIDevice{{Name: "nodekit.dev/thing=two"}},
	}})
	want := fmt.Sprintf(`no spec in [%q] describes ["nodekit.dev/thing=two"], but ["nodekit.dev/thing=one"]; %q is not read: `, dir, dir+"/two.json")
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("a device that is not there is answered with %v, want %q and %q", err, fault.Invalid, want)
	}
	n.removeSandbox(sandbox)
}
