package cni

import (
	"errors"
	"os/exec"

	"golang.org/x/sys/unix"

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
