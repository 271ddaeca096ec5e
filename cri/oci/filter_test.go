package oci_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/seccompbpf"
)

// TestFilterIsMadeOnce: if the OCI runtime leaves the program of a seccomp profile
// behind, the next container with the same profile, and no other, is given it. Once it
// was seen to be used, the system calls are left out of the profile. All containers are
// confined.
func TestFilterIsMadeOnce(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("filters", nil)
	own := filepath.Join(n.dir, "profile.json")
	n.must(os.WriteFile(own, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600))
	profiles := map[string]*runtimeapi.SecurityProfile{
		"default": {ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		"own":     {ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: own},
	}
	made, last, heeds := map[string]string{}, "", false
	for i, profile := range []string{"default", "own", "default", "own"} {
		id := n.create(sandbox, cfg, fmt.Sprint(profile, i), func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = profiles[profile]
		}, "sleep", "forever")
		n.startContainer(id)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pidOf(id)))
		n.must(err)
		if !strings.Contains(string(status), "Seccomp:\t2\n") {
			t.Errorf("container %d runs without the %s profile", i, profile)
		}
		program, err := os.ReadFile(filepath.Join(n.dir, "run", "runtime", id, "seccomp.bpf"))
		if errors.Is(err, os.ErrNotExist) {
			t.Logf("this OCI runtime leaves no program behind")
		} else {
			n.must(err)
		}
		text := base64.StdEncoding.EncodeToString(program)
		doc := n.specOf(id)
		given := doc.Annotations["run.oci.seccomp_bpf_data"]
		if given != made[profile] {
			t.Errorf("container %d of the %s profile was given %.20q..., want %.20q...", i, profile, given, made[profile])
		}
		if given != "" && text != given {
			t.Errorf("container %d of the %s profile has another program than it was given", i, profile)
		}
		if left := len(doc.Linux.Seccomp.Syscalls) == 0; left != heeds {
			t.Errorf("container %d: system calls left out is %t, want %t", i, left, heeds)
		}
		if heeds = given != ""; !heeds && len(program) > 0 {
			made[profile] = n.improved(program)
		}
		n.wantProfile(id)
		last = id
	}
	if _, code := n.exec(last, "/podtool", "do", "mkdir /new"); code == 0 {
		t.Error("what the profile forbids was done")
	}
	n.removeSandbox(sandbox)
}

// improved returns what containers are given instead of the program that an OCI runtime
// has compiled.
func (n *node) improved(compiled []byte) string {
	n.t.Helper()
	program, err := seccompbpf.Decode(compiled)
	n.must(err)
	fast, err := seccompbpf.Hasten(program)
	n.must(err)
	n.t.Logf("%d instructions became %d", len(program), len(fast))
	const unreached = "\x06\x00\x00\x00\x00\x00\x00\x80" // BPF_RET, SECCOMP_RET_KILL_PROCESS
	return base64.StdEncoding.EncodeToString(append(seccompbpf.Encode(fast), unreached...))
}

// wantProfile checks that the container's spec, as reported, has the profile that
// confines it, and not the one that the OCI runtime was given.
func (n *node) wantProfile(id string) {
	n.t.Helper()
	st, err := n.rs.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	n.must(err)
	var doc specs.Spec
	n.must(json.Unmarshal([]byte(st.Info["runtimeSpec"]), &doc))
	if doc.Linux == nil || doc.Linux.Seccomp == nil || len(doc.Linux.Seccomp.Syscalls) == 0 || len(doc.Annotations) > 0 {
		n.t.Errorf("container %q is shown without its profile, or with annotations: %.200s", id, st.Info["runtimeSpec"])
	}
}

// specOf reads the spec that the container's OCI runtime was given.
func (n *node) specOf(id string) (doc specs.Spec) {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "*", "sandboxes", "*", "bundle-"+id, "config.json"))
	n.must(err)
	if len(files) != 1 {
		n.t.Fatalf("the specs of container %q are %q", id, files)
	}
	text, err := os.ReadFile(files[0])
	n.must(err)
	n.must(json.Unmarshal(text, &doc))
	return doc
}
