package devicesuite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/deviceplugin"
)

func registrationRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		{
			ID: "DEV-REG-001", Level: conformance.Must,
			Title: "serves before it registers, and lists its devices when asked",
			Spec: specOf(docs, "Device plugin implementation",
				"A plugin MUST start serving gRPC service before registering itself with kubelet for successful registration."),
			Check: with(checkServesFirst),
		},
		{
			ID: "DEV-REG-002", Level: conformance.Must,
			Title: "registers with the version, a resource name and an endpoint that a kubelet accepts",
			Spec: specOf(api, "RegisterRequest",
				"Name of the unix socket the device plugin is listening on; PATH = path.Join(DevicePluginPath, endpoint)"),
			Check: with(checkRequest),
		},
	}
}

// first returns the very first registration, even if a kubelet refuses it: what the
// plugin does next does not change that.
func (b *bench) first(ctx context.Context) (*registered, error) {
	began := time.Now()
	if _, err := b.request(ctx); err != nil {
		return nil, err
	}
	select {
	case r := <-b.kubelet.arrived: // the kubelet's own timeout bounds it
		return r, nil
	case <-ctx.Done():
		return nil, errors.Join(b.unregistered("the plugin", began, nil), gaveUp(ctx))
	}
}

// request returns the first request to register, before anybody calls back.
func (b *bench) request(ctx context.Context) (*pluginapi.RegisterRequest, error) {
	began, timeout := time.Now(), time.After(b.patience)
	look := time.NewTicker(restartDelay)
	defer look.Stop()
	for {
		select {
		case in := <-b.kubelet.requests:
			return in, nil
		case <-look.C:
			if err := b.lost(0); err != nil {
				return nil, err
			}
		case <-timeout:
			return nil, b.unregistered("the plugin", began, nil)
		case <-ctx.Done():
			return nil, errors.Join(b.unregistered("the plugin", began, nil), gaveUp(ctx))
		}
	}
}

func checkServesFirst(ctx context.Context, b *bench) error {
	r, err := b.first(ctx)
	if err != nil {
		return err
	}
	if r.refused != nil {
		return fmt.Errorf("the plugin registered %q and does not serve: %w", r.request.GetResourceName(), r.refused)
	}
	s, err := r.watch(ctx)
	if err != nil {
		return err
	}
	_, err = s.next(ctx, b.patience)
	return err
}

func checkRequest(ctx context.Context, b *bench) error {
	in, err := b.request(ctx)
	if err != nil {
		return err
	}
	return requestProblems(in)
}

func requestProblems(in *pluginapi.RegisterRequest) error {
	var errs []error
	if in.GetVersion() != pluginapi.Version {
		errs = append(errs, fmt.Errorf("version is %q, want %q", in.GetVersion(), pluginapi.Version))
	}
	if e := in.GetEndpoint(); e == "" || strings.ContainsRune(e, filepath.Separator) || e == ".." {
		errs = append(errs, fmt.Errorf("endpoint is %q, want the name of a socket in the kubelet's device-plugins directory", e))
	}
	return errors.Join(append(errs, deviceplugin.ValidResource(in.GetResourceName()))...)
}
