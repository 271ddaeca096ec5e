package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func seLinuxRules() []rule {
	return []rule{
		should("CRI-SEC-020", "gives a container the SELinux level that it asks for",
			"SELinuxOption", "SELinuxOption are the labels to be applied to the container.", onSELinux(checkSELinuxLevel), Isolation, SELinux),
		facto("CRI-SEC-021", "gives Pods that ask for none SELinux levels of their own",
			"seLinuxOptions", "If unspecified, the container runtime will allocate a random SELinux context for each container.", onSELinux(checkSELinuxOwn), Isolation, SELinux),
		should("CRI-MOUNT-015", "relabels a mount for SELinux when it is asked to",
			"Mount", "If set, the mount needs SELinux relabeling.", onSELinux(checkRelabel), Isolation, SELinux),
	}
}

// onSELinux is for rules about what the kernel does.
func onSELinux(check look) look {
	return func(ctx context.Context, s *subject) error {
		levels, err := os.ReadFile("/sys/fs/selinux/mls")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if string(levels) != "1" {
			return conformance.NotApplicable("this machine has no SELinux, or a policy without levels: /sys/fs/selinux/mls is %q", levels)
		}
		return check(ctx, s)
	}
}

// seLinuxLevel is a level that a policy for containers allows.
const seLinuxLevel = "s0:c17,c311"

// ordinary creates a Pod with a network of its own if the runtime has any, because CRI-O
// does not label Pods on the host's network.
func (s *subject) ordinary(ctx context.Context, edits ...podEdit) (*pod, error) {
	return s.pod(ctx, append(edits, func(c *runtimeapi.PodSandboxConfig) {
		if s.network {
			c.Hostname, c.Linux.SecurityContext.NamespaceOptions.Network = "labelled", runtimeapi.NamespaceMode_POD
		}
	})...)
}

// labelled creates a Pod that requests the level as the kubelet does: for the sandbox and
// for each container.
func (s *subject) labelled(ctx context.Context) (*pod, edit, error) {
	ask := &runtimeapi.SELinuxOption{Level: seLinuxLevel}
	p, err := s.ordinary(ctx, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SelinuxOptions = ask })
	return p, secure(func(c *runtimeapi.LinuxContainerSecurityContext) { c.SelinuxOptions = ask }), err
}

// processLevel returns the level of a container's process.
func (p *pod) processLevel(ctx context.Context, edits ...edit) (string, error) {
	out, err := p.prints(ctx, "cat /proc/self/attr/current", edits...)
	return levelOf(out), err
}

// levelOf returns what follows a label's third colon.
func levelOf(label string) string {
	parts := strings.SplitN(strings.Trim(label, "\x00\n"), ":", 4)
	return strings.Join(parts[min(3, len(parts)):], "")
}

func checkSELinuxLevel(ctx context.Context, s *subject) error {
	p, asks, err := s.labelled(ctx)
	if err != nil {
		return err
	}
	level, err := p.processLevel(ctx, asks)
	if err == nil && level != seLinuxLevel {
		return fmt.Errorf("the container's process has the SELinux level %q, want %q", level, seLinuxLevel)
	}
	return err
}

func checkSELinuxOwn(ctx context.Context, s *subject) error {
	var levels []string
	for range 2 {
		p, err := s.ordinary(ctx)
		if err != nil {
			return err
		}
		level, err := p.processLevel(ctx)
		if err != nil {
			return err
		}
		levels = append(levels, level)
	}
	if levels[0] == levels[1] {
		return fmt.Errorf("the processes of two Pods have the SELinux level %q", levels[0])
	}
	return nil
}

func checkRelabel(ctx context.Context, s *subject) error {
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	p, asks, err := s.labelled(ctx)
	if err != nil {
		return err
	}
	out, err := p.prints(ctx, "cat /mnt/name", asks, mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", SelinuxRelabel: true}))
	if err != nil {
		return err
	}
	if out != "host volume\n" {
		return fmt.Errorf("in a mount that was relabelled the container reads %q", out)
	}
	for _, path := range []string{dir, filepath.Join(dir, "name")} {
		label, err := fileLabel(path)
		if err != nil {
			return err
		}
		if level := levelOf(label); level != seLinuxLevel {
			return fmt.Errorf("a file of the mount has the SELinux level %q, want the container's, %q", level, seLinuxLevel)
		}
	}
	return nil
}
