package devicesuite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/nodekit-project/nodekit/conformance"
)

func answerRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		{
			ID: "DEV-LIST-002", Level: conformance.Must,
			Title: "keeps ListAndWatch open, whose end takes its devices away",
			Spec: specOf(api, "DevicePlugin, ListAndWatch",
				"ListAndWatch returns a stream of List of Devices. Whenever a Device state change or a Device disappears, ListAndWatch returns the new list"),
			Check: with(checkStays),
		},
		{
			ID: "DEV-ALLOC-003", Level: conformance.Must,
			Title: "answers an allocation with what can be given to a container",
			Spec: specOf(api, "DeviceSpec and CDIDevice",
				"Path of the device on the host. Cgroups permissions of the device, candidates are one or more of r, w, m. Fully qualified CDI device name"),
			Check: with(checkAnswer),
		},
		{
			ID: "DEV-PREFER-001", Level: conformance.Must,
			Title: "answers GetPreferredAllocation when its options say that it has it",
			Spec: specOf(api, "DevicePluginOptions",
				"Indicates if GetPreferredAllocation is implemented and available for calling"),
			Check: with(func(ctx context.Context, b *bench) error { _, _, err := b.prefer(ctx); return err }),
		},
		{
			ID: "DEV-PREFER-002", Level: conformance.Should,
			Title: "prefers as many devices as it is asked for, of those that it is asked about",
			Spec: specOf(api, "PreferredAllocationRequest",
				"The device plugin should take the list of `available_deviceIDs` and calculate a preferred allocation of size 'allocation_size' from them, making sure to include the set of devices listed in 'must_include_deviceIDs'."),
			Check: with(checkPreferred),
		},
		{
			ID: "DEV-START-001", Level: conformance.Must,
			Title: "answers PreStartContainer when its options say that it is to be called",
			Spec: specOf(api, "DevicePlugin, PreStartContainer",
				"PreStartContainer is called, if indicated by Device Plugin during registeration phase, before each container start."),
			Check: with(checkPreStart),
		},
	}
}

// checkStays considers a stream open if it stays open for a moment: a plugin that
// ends it by mistake returns after the first list.
func checkStays(ctx context.Context, b *bench) error {
	_, s, _, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	return s.stays(ctx, 300*time.Millisecond)
}

// allocate asks for the healthy device for one container.
func (b *bench) allocate(ctx context.Context, r *registered, id string) ([]*pluginapi.ContainerAllocateResponse, error) {
	out, err := called(ctx, b, fmt.Sprintf("Allocate of the healthy device %q", id), func(ctx context.Context) (*pluginapi.AllocateResponse, error) {
		return r.plugin.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: []string{id}}}})
	})
	return out.GetContainerResponses(), err
}

// called makes a call of the plugin; if the plugin does not answer, the error says
// that in plain words instead of gRPC's.
func called[R any](ctx context.Context, b *bench, what string, call func(context.Context) (R, error)) (R, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	out, err := call(ctx)
	switch {
	case err == nil:
		return out, nil
	case expired(ctx, err):
		return out, errors.Join(fmt.Errorf("%s did not answer within %s", what, waited(began)), gaveUp(ctx))
	}
	return out, fmt.Errorf("%s: %w", what, err)
}

func checkAnswer(ctx context.Context, b *bench) error {
	r, id, err := b.healthy(ctx)
	if err != nil {
		return err
	}
	answers, err := b.allocate(ctx, r, id)
	if err != nil {
		return err
	}
	var wrong []error
	for _, a := range answers {
		wrong = append(wrong, unusable(a)...)
	}
	return errors.Join(wrong...)
}

// unusable returns what no runtime can give to a container.
func unusable(a *pluginapi.ContainerAllocateResponse) (wrong []error) {
	absolute := func(what, host, container string) {
		if !filepath.IsAbs(host) {
			wrong = append(wrong, fmt.Errorf("the %s has the host path %q, want an absolute one", what, host))
		}
		if !filepath.IsAbs(container) {
			wrong = append(wrong, fmt.Errorf("the %s has the container path %q, want an absolute one", what, container))
		}
	}
	for _, d := range a.GetDevices() {
		what := fmt.Sprintf("device node %q", d.GetHostPath())
		absolute(what, d.GetHostPath(), d.GetContainerPath())
		if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" {
			wrong = append(wrong, fmt.Errorf("the %s has the permissions %q, want one or more of r, w and m", what, p))
		}
	}
	for _, m := range a.GetMounts() {
		absolute(fmt.Sprintf("mount of %q", m.GetHostPath()), m.GetHostPath(), m.GetContainerPath())
	}
	for _, d := range a.GetCdiDevices() {
		if _, _, _, err := parser.ParseQualifiedName(d.GetName()); err != nil {
			wrong = append(wrong, fmt.Errorf("the CDI device %q is no qualified name, like vendor.com/class=name: %w", d.GetName(), err))
		}
	}
	return wrong
}

// prefer asks which one of all healthy devices is the best, and returns them with the
// answer.
func (b *bench) prefer(ctx context.Context) (available, preferred []string, err error) {
	r, s, list, err := b.ready(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	if !r.options.GetGetPreferredAllocationAvailable() {
		return nil, nil, conformance.NotApplicable("the plugin's options do not say that it has GetPreferredAllocation")
	}
	if available, err = b.someHealthy(ctx, r, s, list); err != nil {
		return nil, nil, err
	}
	out, err := called(ctx, b, fmt.Sprintf("GetPreferredAllocation of 1 of %q", available), func(ctx context.Context) (*pluginapi.PreferredAllocationResponse, error) {
		return r.plugin.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: available, AllocationSize: 1,
		}}})
	})
	for _, c := range out.GetContainerResponses() {
		preferred = append(preferred, c.GetDeviceIDs()...)
	}
	return available, preferred, err
}

func checkPreferred(ctx context.Context, b *bench) error {
	available, preferred, err := b.prefer(ctx)
	if err != nil {
		return err
	}
	if len(preferred) != 1 || !slices.Contains(available, preferred[0]) {
		return fmt.Errorf("GetPreferredAllocation of 1 of %q preferred %q", available, preferred)
	}
	return nil
}

func checkPreStart(ctx context.Context, b *bench) error {
	r, id, err := b.healthy(ctx)
	if err != nil {
		return err
	}
	if !r.options.GetPreStartRequired() {
		return conformance.NotApplicable("the plugin's options do not ask for PreStartContainer")
	}
	if _, err := b.allocate(ctx, r, id); err != nil {
		return err
	}
	_, err = called(ctx, b, fmt.Sprintf("PreStartContainer of %q, which was allocated", id), func(ctx context.Context) (*pluginapi.PreStartContainerResponse, error) {
		return r.plugin.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: []string{id}})
	})
	return err
}
