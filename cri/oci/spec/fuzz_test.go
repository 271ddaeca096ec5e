package spec_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/protofill"
)

// FuzzBuild fills every field of both configurations: what cannot be built is
// refused by a kind, and what is built the OCI runtime can read.
func FuzzBuild(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	known := map[protoreflect.Name][]string{
		"container_path": {"/c", "/c/d"}, "host_path": {"/h"}, "working_dir": {"/"}, "key": {"K"}, "hostname": {"pod"}, "run_as_username": {"app"},
		"add_capabilities": {"NET_ADMIN", "ALL"}, "drop_capabilities": {"ALL"}, "cpuset_cpus": {"0-1"}, "page_size": {"2MB"}, "command": {"true"}, "args": {"x"},
		"mount_options": {"noexec"}, "localhost_ref": {"/profile"}, "apparmor_profile": {"runtime/default"}, "masked_paths": {"/proc/kcore"},
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		fill := protofill.New(seed, "", known)
		in := input()
		change(fill, in.Sandbox)
		change(fill, in.Container)
		doc, err := spec.Build(in)
		if err != nil {
			if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.FailedPrecondition) && !errors.Is(err, fault.Unimplemented) {
				t.Errorf("an error without kind: %v", err)
			}
			return
		}
		res := &runtimeapi.LinuxContainerResources{}
		change(fill, res)
		spec.Limit(doc, res, spec.Host{})
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		var back specs.Spec
		if err := json.Unmarshal(text, &back); err != nil {
			t.Errorf("the spec cannot be read: %v\n%s", err, text)
		}
		for _, m := range back.Mounts {
			if m.Destination == "" || m.Destination[0] != '/' {
				t.Errorf("a mount at %q", m.Destination)
			}
		}
	})
}

// change fills the message, or changes a few fields of what it has.
func change(fill protofill.Filler, m proto.Message) {
	if fill.IntN(3) == 0 {
		fill.Fill(m)
		return
	}
	for range fill.IntN(5) {
		fill.Change(m)
	}
}

// TestLimit: an update changes what it names, and leaves the rest of the spec.
func TestLimit(t *testing.T) {
	shares, quota, limit, weight := uint64(100), int64(5), int64(1<<20), uint16(7)
	doc := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: &shares, Cpus: "0"}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, BlockIO: &specs.LinuxBlockIO{Weight: &weight},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}, {Pagesize: "1GB", Limit: 1}}, Unified: map[string]string{"a": "1", "b": "1"},
	}}}
	spec.Limit(doc, &runtimeapi.LinuxContainerResources{
		CpuQuota: quota, MemoryLimitInBytes: limit, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2}}, Unified: map[string]string{"b": "2"},
	}, spec.Host{})
	want := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Cpus: "0"}, Memory: &specs.LinuxMemory{Limit: &limit},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, BlockIO: &specs.LinuxBlockIO{Weight: &weight},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "1GB", Limit: 1}, {Pagesize: "2MB", Limit: 2}}, Unified: map[string]string{"a": "1", "b": "2"},
	}
	if diff := cmp.Diff(want, doc.Linux.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	doc.Process = &specs.Process{}
	for _, score := range []int64{-50, 0} { // the second one is none
		spec.Limit(doc, &runtimeapi.LinuxContainerResources{OomScoreAdj: score}, spec.Host{MinOOMScoreAdj: -10})
		if got := doc.Process.OOMScoreAdj; got == nil || *got != -10 {
			t.Errorf("of the score %d: %v, want -10, the lowest", score, got)
		}
	}
}
