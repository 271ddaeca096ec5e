package main

import (
	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// cgroupDriver is the value of --cgroup-driver.
type cgroupDriver struct{ systemd *bool }

// addCgroupDriver adds the flag; it sets systemd.
func addCgroupDriver(cmd *cobra.Command, systemd *bool) {
	cmd.Flags().Var(cgroupDriver{systemd}, "cgroup-driver", "cgroup driver of the reference runtime, cgroupfs or systemd; "+
		"for another runtime it is only used if that does not report its own")
}

// String implements pflag.Value.
func (d cgroupDriver) String() string {
	if d.systemd != nil && *d.systemd {
		return "systemd"
	}
	return "cgroupfs"
}

// Set implements pflag.Value.
func (d cgroupDriver) Set(name string) error {
	switch name {
	case "cgroupfs", "systemd":
		*d.systemd = name == "systemd"
		return nil
	}
	return fault.Invalid.Errorf("want cgroupfs or systemd")
}

// Type implements pflag.Value.
func (d cgroupDriver) Type() string { return "driver" }
