package nri

import (
	"encoding/json"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// everything is an adjustment in which no field is left out.
func everything() *api.ContainerAdjustment {
	major, minor := api.Int64(1), api.Int64(5)
	return &api.ContainerAdjustment{
		Annotations: map[string]string{"a": "b"},
		Mounts:      []*api.Mount{{Destination: "/d", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}}},
		Env:         []*api.KeyValue{{Key: "A", Value: "b"}},
		Hooks:       &api.Hooks{Prestart: []*api.Hook{{Path: "/bin/true"}}},
		Rlimits:     []*api.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 7, Soft: 7}},
		CDIDevices:  []*api.CDIDevice{{Name: "example.com/device=one"}},
		Args:        []string{"other"},
		Linux: &api.LinuxContainerAdjustment{
			Devices:     []*api.LinuxDevice{{Path: "/dev/z", Type: "c", Major: 1, Minor: 5}},
			CgroupsPath: "/other",
			OomScoreAdj: &api.OptionalInt{Value: 9},
			IoPriority:  &api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE},
			SeccompPolicy: &api.LinuxSeccomp{
				DefaultAction: "SCMP_ACT_ALLOW",
			},
			Namespaces:   []*api.LinuxNamespace{{Type: "uts", Path: "/run/uts"}},
			Sysctl:       map[string]string{"net.ipv4.ip_forward": "1"},
			NetDevices:   map[string]*api.LinuxNetDevice{"eth9": {Name: "eth1"}},
			Scheduler:    &api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH},
			MemoryPolicy: &api.LinuxMemoryPolicy{Mode: api.MpolMode_MPOL_BIND, Nodes: "0"},
			Rdt: &api.LinuxRdt{
				ClosId: api.String("gold"), Schemata: api.RepeatedString([]string{"MB:0=50"}), EnableMonitoring: api.Bool(true), Remove: true,
			},
			Resources: &api.LinuxResources{
				Memory: &api.LinuxMemory{
					Limit: api.Int64(1 << 20), Reservation: api.Int64(1 << 20), Swap: api.Int64(1 << 20), Kernel: api.Int64(1 << 20), KernelTcp: api.Int64(1 << 20),
					Swappiness: api.UInt64(9), DisableOomKiller: api.Bool(true), UseHierarchy: api.Bool(false),
				},
				Cpu: &api.LinuxCPU{
					Shares: api.UInt64(9), Quota: api.Int64(9000), Period: api.UInt64(9000), RealtimeRuntime: api.Int64(9), RealtimePeriod: api.UInt64(9),
					Cpus: "0", Mems: "0",
				},
				HugepageLimits: []*api.HugepageLimit{{PageSize: "2MB", Limit: 9}},
				BlockioClass:   api.String("slow"),
				RdtClass:       api.String("gold"),
				Unified:        map[string]string{"memory.high": "9"},
				Devices:        []*api.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: major, Minor: minor, Access: "r"}},
				Pids:           &api.LinuxPids{Limit: -1},
			},
		},
	}
}

// parts are messages of which each field is an adjustment of its own.
var parts = map[protoreflect.Name]bool{
	"ContainerAdjustment": true, "LinuxContainerAdjustment": true, "LinuxResources": true, "LinuxMemory": true, "LinuxCPU": true, "LinuxRdt": true,
}

// each calls f with every field of a message alone, by its path.
func each(t *testing.T, path string, m protoreflect.Message, f func(path string, alone protoreflect.Message)) {
	t.Helper()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		name := path + string(d.Name())
		if !m.Has(d) {
			t.Errorf("everything lacks the field %s, which this version of NRI has", name)
			continue
		}
		set := func(value protoreflect.Message) protoreflect.Message {
			alone := m.New()
			alone.Set(d, protoreflect.ValueOfMessage(value))
			return alone
		}
		if d.Kind() == protoreflect.MessageKind && !d.IsList() && !d.IsMap() && parts[d.Message().Name()] {
			each(t, name+".", m.Get(d).Message(), func(path string, alone protoreflect.Message) { f(path, set(alone)) })
			continue
		}
		alone := m.New()
		alone.Set(d, m.Get(d))
		f(name, alone)
	}
}

// TestNothingIsIgnored: each field of an adjustment changes the spec or is refused, also
// those that a later version of NRI brings.
func TestNothingIsIgnored(t *testing.T) {
	class := &specs.LinuxIntelRdt{ClosID: "gold"}
	weight := uint16(10)
	for name, p := range map[string]*Plugins{
		"with classes and devices": {methods: Methods{
			InjectCDI: func(doc *specs.Spec, names []string) error { doc.Hostname = names[0]; return nil },
			BlockIO:   func(string) (*specs.LinuxBlockIO, error) { return &specs.LinuxBlockIO{Weight: &weight}, nil },
			RDT:       func(string) (*specs.LinuxIntelRdt, error) { return class, nil },
		}},
		"without": {},
	} {
		refused := 0
		each(t, "", everything().ProtoReflect(), func(path string, alone protoreflect.Message) {
			limit := int64(100)
			doc := &specs.Spec{
				Process: &specs.Process{Args: []string{"own"}},
				Linux:   &specs.Linux{CgroupsPath: "/own", Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}, IntelRdt: &specs.LinuxIntelRdt{ClosID: "own"}},
			}
			before, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			err = p.adjust(doc, proto.Clone(alone.Interface()).(*api.ContainerAdjustment))
			if err != nil {
				refused++
				return
			}
			after, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if string(before) == string(after) {
				t.Errorf("%s: %s is neither in the spec nor refused", name, path)
			}
		})
		if refused > 10 {
			t.Errorf("%s: %d fields are refused", name, refused)
		}
	}
}

// TestAdjustmentThatFails: an error comes before what the generator leaves out is done,
// for which it has made the place.
func TestAdjustmentThatFails(t *testing.T) {
	doc := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	err := new(Plugins).adjust(doc, &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{
		Namespaces: []*api.LinuxNamespace{{Type: "nothing", Path: "/x"}}, Resources: &api.LinuxResources{Pids: &api.LinuxPids{Limit: -1}},
	}})
	if err == nil {
		t.Error("there is no namespace of the kind nothing")
	}
}
