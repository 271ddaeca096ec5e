package cri_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func TestStatusReportsFeatures(t *testing.T) {
	_, rt := newFake()
	rt.Handlers = []cri.Handler{{Name: "vm", UserNamespaces: true}, {RecursiveReadOnlyMounts: true}}
	rt.Features = cri.Features{SupplementalGroupsPolicy: true, MountOptions: true}
	n := serve(t, rt, t.TempDir())
	got, err := n.Runtime.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtimeapi.StatusResponse{
		Status: got.Status,
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{
			{Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}},
			{Name: "vm", Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}},
		},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What only the author knows of a container is in its status, and still there
// after a restart.
func TestContainerUserAndStopSignal(t *testing.T) {
	_, rt := newFake()
	rt.CreateContainer = func(_ context.Context, c *cri.Container) error {
		c.User = &runtimeapi.LinuxContainerUser{Uid: 7, SupplementalGroups: []int64{8, 9}}
		if c.StopSignal == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			c.StopSignal = runtimeapi.Signal_SIGNAL_SIGQUIT
		}
		return nil
	}
	dir := t.TempDir()
	n := serve(t, rt, dir)
	sb := n.sandbox("a")
	id := n.container(sb, "image's")
	req := createRequest(sb, "asked for")
	req.Config.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
	resp, err := n.Runtime.CreateContainer(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"created", "recovered"} {
		st := n.status(id)
		want := &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 7, SupplementalGroups: []int64{8, 9}}}
		if diff := cmp.Diff(want, st.User, protocmp.Transform()); diff != "" || st.StopSignal != runtimeapi.Signal_SIGNAL_SIGQUIT {
			t.Errorf("%s: stop signal %v, user (-want +got):\n%s", when, st.StopSignal, diff)
		}
		if st := n.status(resp.ContainerId); st.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 {
			t.Errorf("%s: stop signal %v", when, st.StopSignal)
		}
		n.stop()
		n = serve(t, rt, dir)
	}
}

func TestImagesGoByHandler(t *testing.T) {
	_, rt := newFake()
	var asked []string
	rt.Images = &cri.Images{
		Status: func(_ context.Context, s *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			asked = append(asked, s.RuntimeHandler+" "+s.Annotations["arch"])
			return &runtimeapi.Image{Id: "id", Size: 1}, nil
		},
		Pull: func(_ context.Context, r *runtimeapi.PullImageRequest) (string, error) {
			asked = append(asked, r.SandboxConfig.Metadata.Name+" "+r.Auth.GetUsername())
			return "id", nil
		},
	}
	n := serve(t, rt, t.TempDir())
	spec := func(handler string) *runtimeapi.ImageSpec {
		return &runtimeapi.ImageSpec{Image: "x", RuntimeHandler: handler, Annotations: map[string]string{"arch": "arm"}}
	}
	_, err := n.Images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec("special")})
	if err != nil {
		t.Error(err)
	}
	pull := &runtimeapi.PullImageRequest{Image: spec(""), SandboxConfig: sandboxConfig("pod"), Auth: &runtimeapi.AuthConfig{Username: "me"}}
	if _, err := n.Images.PullImage(t.Context(), pull); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"special arm", "pod me"}, asked); diff != "" {
		t.Error(diff)
	}
	_, err = n.Images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec("kata")})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an unknown handler: %v", err)
	}
}

// What the runtime did not say that it can do is not asked of the author.
func TestUndeclaredFeaturesAreRefused(t *testing.T) {
	f, rt := newFake()
	rt.Handlers = []cri.Handler{{Name: "all", RecursiveReadOnlyMounts: true, UserNamespaces: true}}
	n := serve(t, rt, t.TempDir())
	userns := &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}}
	sandbox := func(handler string, sec *runtimeapi.LinuxSandboxSecurityContext) error {
		config := sandboxConfig(fmt.Sprint(handler, sec))
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: sec}
		_, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		return err
	}
	sb := n.sandbox("plain")
	container := func(m *runtimeapi.Mount, sec *runtimeapi.LinuxContainerSecurityContext) error {
		req := createRequest(sb, "x")
		req.Config.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: sec}
		if m != nil {
			req.Config.Mounts = []*runtimeapi.Mount{m}
		}
		_, err := n.Runtime.CreateContainer(t.Context(), req)
		return err
	}
	called := len(f.noted())
	for what, err := range map[string]error{
		"user namespace": sandbox("", &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: userns}),
		"user namespace on the host's network": sandbox("all", &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, UsernsOptions: userns.UsernsOptions,
		}}),
		"groups":              sandbox("", &runtimeapi.LinuxSandboxSecurityContext{SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}),
		"container's user":    container(nil, &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: userns}),
		"container's groups":  container(nil, &runtimeapi.LinuxContainerSecurityContext{SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}),
		"mount options":       container(&runtimeapi.Mount{ContainerPath: "/x", MountOptions: []string{"noexec"}}, nil),
		"recursive read-only": container(&runtimeapi.Mount{ContainerPath: "/x", Readonly: true, RecursiveReadOnly: true}, nil),
	} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := len(f.noted()); got != called {
		t.Errorf("the author was called: %q", f.noted())
	}
	if err := sandbox("all", &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: userns}); err != nil {
		t.Errorf("a user namespace by a handler that has them: %v", err)
	}
}
