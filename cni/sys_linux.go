package cni

import (
	"errors"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// bindToParent makes the kernel kill the process when this one dies.
func bindToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
}

// verifyNetNS refuses a CNI_NETNS that is no network namespace, or the one that
// the plugin itself runs in: configuring that as a container's would cut off
// the host.
func verifyNetNS(path string) error {
	container, err := netns.Open(path)
	if err != nil {
		return Errorf(CodeEnvironment, "CNI_NETNS: %w", err)
	}
	defer container.Close()
	own, err := netns.Current()
	if err != nil {
		return err
	}
	defer own.Close()
	a, aerr := container.ID()
	b, berr := own.ID()
	if err := errors.Join(aerr, berr); err != nil {
		return err
	}
	if a == b {
		return Errorf(CodeEnvironment, "CNI_NETNS: %q is the network namespace that the plugin runs in", path)
	}
	return nil
}

// InNetNS calls fn in the container's network namespace, on a goroutine that is
// locked to its thread: fn must not start goroutines that count on the namespace.
//
// For DEL a namespace that is not given, or gone, holds nothing to undo: fn is
// not called and the result is nil.
func (r *Request) InNetNS(fn func() error) error {
	if r.Command != CmdDel {
		return netns.Do(r.NetNS, fn)
	}
	h, err := netns.Open(r.NetNS)
	if errors.Is(err, fault.NotFound) || errors.Is(err, fault.Invalid) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Do(fn)
}
