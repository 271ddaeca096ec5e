package deviceplugin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestValidResource(t *testing.T) {
	for name, valid := range map[string]bool{
		"example.com/gpu": true, "nodekit.dev/gpu.shared": true,
		"gpu": false, "": false, "cpu": false, "hugepages-2Mi": false,
		"kubernetes.io/gpu": false, "x.kubernetes.io/gpu": false, "requests.example.com/gpu": false,
		"Example.com/gpu": false, "example.com/": false, "example.com/a/b": false,
		strings.Repeat("a.", 125) + "a/gpu": false, // valid alone, too long as a quota
	} {
		err := ValidResource(name)
		if (err == nil) != valid || (err != nil && !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q: %v, want valid %v", name, err, valid)
		}
	}
}

func newTestServer(t *testing.T, p *Plugin, devices ...Device) *server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	v := newInventory(log)
	if err := v.update(devices); err != nil {
		t.Fatal(err)
	}
	return newServer(p, v, log, t.Context().Done())
}

func TestListLimits(t *testing.T) {
	v := newInventory(slog.New(slog.DiscardHandler))
	var many []Device
	for range 70_000 {
		many = append(many, Device{ID: strings.Repeat("x", 50) + string(rune('a'+len(many)%26)) + strings.Repeat("y", 7) + itoa(len(many))})
	}
	for name, list := range map[string][]Device{
		"no id": {{}}, "long": {{ID: strings.Repeat("x", 64)}}, "twice": {{ID: "a"}, {ID: "a"}},
		"space": {{ID: "a b"}}, "control": {{ID: "a\n"}}, "numa": {{ID: "a", NUMA: []int{-1}}}, "size": many,
	} {
		if err := v.update(list); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if list, _ := v.get(); list != nil {
		t.Errorf("a refused list is in use: %v", list)
	}
}

func itoa(n int) string {
	const digits = "0123456789"
	return string([]byte{digits[n/10000%10], digits[n/1000%10], digits[n/100%10], digits[n/10%10], digits[n%10]})
}

func TestAllocateHoldsBothSides(t *testing.T) {
	var asked []string
	p := &Plugin{Resource: "example.com/x", Allocate: func(_ context.Context, ids []string) (*Allocation, error) {
		asked = ids
		if ids[0] == "bad" {
			return &Allocation{
				Nodes:  []Node{{HostPath: "dev/x"}, {HostPath: "/dev/x", Permissions: "rx"}, {HostPath: "/dev/x"}},
				Mounts: []Mount{{HostPath: "/lib"}}, CDI: []string{"gpu0"}, Envs: map[string]string{"A=B": ""},
			}, nil
		}
		return &Allocation{Nodes: []Node{{HostPath: "/dev/x"}}}, nil
	}}
	s := newTestServer(t, p, Device{ID: "a"}, Device{ID: "b"}, Device{ID: "bad"}, Device{ID: "sick", Unhealthy: true})
	ask := func(ids ...string) (*api.AllocateResponse, error) {
		return s.Allocate(t.Context(), &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: ids}, {}}})
	}
	out, err := ask("b", "a", "b")
	if err != nil || !cmp.Equal(asked, []string{"a", "b"}) || len(out.GetContainerResponses()) != 2 {
		t.Fatalf("asked %q, answered %v, %v", asked, out, err)
	}
	if d := out.GetContainerResponses()[0].GetDevices()[0]; d.GetContainerPath() != "/dev/x" || d.GetPermissions() != "rw" {
		t.Errorf("defaults of a node: %v", d)
	}
	if _, err := ask("other"); !errors.Is(err, fault.NotFound) {
		t.Errorf("unknown device: %v, want NotFound", err)
	}
	if _, err := ask("sick"); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("unhealthy device: %v, want FailedPrecondition", err)
	}
	_, err = ask("bad")
	for _, want := range []string{`"dev/x"`, `"rx"`, "used twice", "container path", `"gpu0"`, `"A=B"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bad allocation: %v, want %s in it", err, want)
		}
	}
}

func TestPreferenceHasNoWayToFailAPod(t *testing.T) {
	var answer []string
	var fails error
	p := &Plugin{Prefer: func(context.Context, Preference) ([]string, error) { return answer, fails }}
	s := newTestServer(t, p)
	ask := func() ([]string, error) {
		out, err := s.GetPreferredAllocation(t.Context(), &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{
			{AvailableDeviceIDs: []string{"a", "b", "c"}, MustIncludeDeviceIDs: []string{"b"}, AllocationSize: 2},
		}})
		if err != nil {
			return nil, err
		}
		return out.GetContainerResponses()[0].GetDeviceIDs(), nil
	}
	for _, c := range []struct{ answer, want []string }{
		{[]string{"c", "b"}, []string{"c", "b"}},
		{nil, []string{"b", "a"}},
		{[]string{"a", "c"}, []string{"b", "a"}},
		{[]string{"b", "b"}, []string{"b", "a"}},
		{[]string{"b", "x"}, []string{"b", "a"}},
	} {
		answer = c.answer
		if got, err := ask(); err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("answer %q became %q, %v, want %q", c.answer, got, err, c.want)
		}
	}
	fails = errors.New("no idea")
	if got, err := ask(); err != nil || !cmp.Equal(got, []string{"b", "a"}) {
		t.Errorf("an error became %q, %v, want any choice", got, err)
	}
}
