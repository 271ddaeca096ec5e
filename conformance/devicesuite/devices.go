package devicesuite

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/conformance"
)

func deviceRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		{
			ID: "DEV-LIST-001", Level: conformance.Must,
			Title: "lists devices with unique ids of at most 63 characters and a health that is one of two",
			Spec: specOf(api, "Device",
				"A unique ID assigned by the device plugin used to identify devices during the communication. Max length of this field is 63 characters. Health of the device, can be healthy or unhealthy, see constants.go"),
			Check: with(checkList),
		},
		{
			ID: "DEV-ALLOC-001", Level: conformance.Must,
			Title: "answers an allocation with one response for each container",
			Spec: specOf(api, "AllocateResponse",
				"AllocateResponse includes the artifacts that needs to be injected into a container for accessing 'deviceIDs' that were mentioned as part of 'AllocateRequest'."),
			Check: with(checkAllocate),
		},
		{
			ID: "DEV-ALLOC-002", Level: conformance.Should,
			Title: "fails the allocation of a device that it does not have",
			Spec: specOf(api, "AllocateResponse, Failure Handling",
				"Allocation on dev1 succeeds but allocation on dev2 fails. The Device plugin should send a ListAndWatch update and fail the Allocation request"),
			Check: with(checkUnknown),
		},
	}
}

func checkList(ctx context.Context, b *bench) error {
	_, _, list, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, d := range list {
		switch id := d.GetID(); {
		case id == "":
			return fmt.Errorf("a device has no id: %v", d)
		case utf8.RuneCountInString(id) > 63:
			return fmt.Errorf("device id %q has %d characters, want 63 at most", id, utf8.RuneCountInString(id))
		case seen[id]:
			return fmt.Errorf("device id %q is listed twice", id)
		default:
			seen[id] = true
		}
		if h := d.GetHealth(); h != pluginapi.Healthy && h != pluginapi.Unhealthy {
			return fmt.Errorf("device %q has health %q, want %q or %q", d.GetID(), h, pluginapi.Healthy, pluginapi.Unhealthy)
		}
	}
	return nil
}

func checkAllocate(ctx context.Context, b *bench) error {
	r, id, err := b.healthy(ctx)
	if err != nil {
		return err
	}
	answers, err := b.allocate(ctx, r, id)
	if err != nil {
		return err
	}
	if n := len(answers); n != 1 {
		return fmt.Errorf("Allocate for one container answered %d container responses, want 1", n)
	}
	return nil
}

func checkUnknown(ctx context.Context, b *bench) error {
	r, _, err := b.healthy(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	const id = "nodekit-no-such-device"
	out, err := r.plugin.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: []string{id}}}})
	if err == nil {
		return fmt.Errorf("Allocate of %q, which was never listed, succeeded with %v", id, out)
	}
	if expired(ctx, err) {
		return fmt.Errorf("Allocate of %q, which was never listed, did not answer within %s", id, waited(began))
	}
	return nil
}

// healthy returns a healthy device of the plugin.
func (b *bench) healthy(ctx context.Context) (*registered, string, error) {
	r, s, list, err := b.ready(ctx, "")
	if err != nil {
		return nil, "", err
	}
	ids, err := b.someHealthy(ctx, r, s, list)
	if err != nil {
		return nil, "", err
	}
	return r, ids[0], nil
}

// someHealthy returns the healthy devices of the list, or of the first later one that
// has some. A plugin that has none for a while cannot be asked to allocate.
func (b *bench) someHealthy(ctx context.Context, r *registered, s *stream, list []*pluginapi.Device) ([]string, error) {
	deadline := time.Now().Add(min(b.patience, time.Second))
	for {
		var ids []string
		for _, d := range list {
			if d.GetHealth() == pluginapi.Healthy {
				ids = append(ids, d.GetID())
			}
		}
		if len(ids) > 0 {
			return ids, nil
		}
		var err error
		if list, err = s.next(ctx, time.Until(deadline)); time.Now().After(deadline) {
			return nil, conformance.NotApplicable("the plugin lists no healthy device of %q", r.request.GetResourceName())
		} else if err != nil {
			return nil, err
		}
	}
}
