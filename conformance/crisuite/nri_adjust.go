package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func nriAdjustRules() []rule {
	return []rule{
		plugs("CRI-NRI-007", "gives a container the variables and the mounts that an NRI plugin adds",
			"api.proto, CreateContainer", adjustSentence, checkNRIAdjust, Isolation),
		plugs("CRI-NRI-008", "gives a container the limits that an NRI plugin sets",
			"api.proto, CreateContainer", adjustSentence, checkNRILimits, Resources, HostProcesses),
		plugs("CRI-NRI-009", "gives a container the devices that an NRI plugin adds",
			"api.proto, CreateContainer", adjustSentence, checkNRIDevice, Isolation),
		advised(plugs("CRI-NRI-010", "gives a container the arguments and the rlimits that an NRI plugin sets",
			"Container Data and Available Lifecycle Events", "Plugins can request adjustment or updates to containers in response to these events.", checkNRIProcess, Isolation)),
		advised(plugs("CRI-NRI-011", "tells NRI plugins in PostCreateContainer of all that plugins have changed",
			"api.proto, Plugin", "For creation and update, these events can be used by plugins to discover the full extent of changes applied to the container, including any changes made by other active plugins.", checkNRIPostCreate)),
		must("CRI-NRI-012", "shows a container's annotations as they were asked for, whatever NRI plugins change",
			"ContainerConfig", "Annotations MUST NOT be altered by the runtime; the annotations stored here MUST be returned in the ContainerStatus associated with the container this ContainerConfig creates.", checkNRIAnnotations, Containers, NRI),
	}
}

const (
	added     = "SUITE_NRI"                  // the variable that plugins add
	addedNote = "conformance.nodekit.dev/of" // the annotation
)

func checkNRIAdjust(ctx context.Context, s *subject) error {
	dir := filepath.Join(s.in.TempDir, "mounted")
	err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), []byte("mounted\n"), 0o644))
	if err != nil {
		return err
	}
	_, err = s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.AddEnv(added, "added")
		a.AddEnv("SUITE_OLD", "replaced")
		a.AddMount(&api.Mount{Destination: "/suite-nri", Source: dir, Type: "bind", Options: []string{"rbind", "ro"}})
	}))
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "do", do("env "+added, "env SUITE_OLD", "cat /suite-nri/file"), func(c *runtimeapi.ContainerConfig) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "SUITE_OLD", Value: []byte("old")})
	})
	if err == nil && out != "added\nreplaced\nmounted\n" {
		return fmt.Errorf("of two variables and a mount that the plugin adds the container has %q", out)
	}
	return err
}

func checkNRILimits(ctx context.Context, s *subject) error {
	_, err := s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.SetLinuxMemoryLimit(48 * mib)
		a.SetLinuxCPUQuota(25_000)
	}))
	if err != nil {
		return err
	}
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	return errors.Join(b.hasMemory(ctx, 48*mib), b.hasQuota(ctx, "25000"))
}

func checkNRIDevice(ctx context.Context, s *subject) error {
	path, number, err := hostDevice()
	if err != nil {
		return err
	}
	var major, minor int64
	if _, err := fmt.Sscanf(number, "character %d:%d", &major, &minor); err != nil {
		return fmt.Errorf("reading %q: %w", number, err)
	}
	_, err = s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.AddDevice(&api.LinuxDevice{Path: "/dev/suite", Type: "c", Major: major, Minor: minor})
	}))
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "stat-device /dev/suite")
	if err == nil && out != number {
		return fmt.Errorf("the container's /dev/suite is %q, want %s, which the plugin adds", strings.TrimSpace(out), path)
	}
	return err
}

func checkNRIProcess(ctx context.Context, s *subject) error {
	_, err := s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.SetArgs([]string{s.tool(), "cat", "/proc/self/limits"})
		a.AddRlimit("RLIMIT_CORE", 8192, 4096) // which the Go runtime of podtool does not change
	}))
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "echo untouched")
	if err != nil {
		return err
	}
	if out == "untouched\n" {
		return errors.New("the container runs with its own arguments, and the plugin sets others")
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 5 && strings.HasPrefix(line, "Max core file size") && f[4] == "4096" && f[5] == "8192" {
			return nil
		}
	}
	return fmt.Errorf("the container's limits are %q, want a core file of 4096 and 8192 bytes, as the plugin sets", out)
}

func checkNRIPostCreate(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.AddEnv(added, "added")
		a.AddAnnotation(addedNote, "the plugin")
	}))
	if err != nil {
		return err
	}
	pod, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := pod.create(ctx, forever)
	if err != nil {
		return err
	}
	post, err := p.hears(ctx, "PostCreateContainer", b.id)
	if err != nil {
		return err
	}
	if !slices.Contains(post.container.GetEnv(), added+"=added") {
		return fmt.Errorf("PostCreateContainer told of the environment %q, to which the plugin had added", post.container.GetEnv())
	}
	if post.container.GetAnnotations()[addedNote] != "the plugin" {
		return fmt.Errorf("PostCreateContainer told of the annotations %q, to which the plugin had added", post.container.GetAnnotations())
	}
	return nil
}

// checkNRIAnnotations has a plugin replace an annotation: only the OCI spec may change.
func checkNRIAnnotations(ctx context.Context, s *subject) error {
	_, err := s.plugin(ctx, adjusting(func(a *api.ContainerAdjustment) {
		a.RemoveAnnotation(addedNote)
		a.AddAnnotation(addedNote, "the plugin")
	}))
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Annotations = map[string]string{addedNote: "the container"} })
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err == nil && !contains(st.GetAnnotations(), b.config.GetAnnotations()) {
		return fmt.Errorf("ContainerStatus has the annotations %q, want %q, which a plugin has changed in the spec", st.GetAnnotations(), b.config.GetAnnotations())
	}
	return err
}
