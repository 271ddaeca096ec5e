// Package testenv is the only way in which a test of this repository may skip: it
// names what the test needs from the machine. A name listed in TESTENV_REQUIRE (comma
// separated, "all" for every one that can be installed) turns the skip into a
// failure, by which CI proves that nothing was silently skipped. systemd as process
// 1, another kernel, SELinux and a criu for this kernel cannot be installed: make
// test-vm lists them, in the virtual machine that it creates for the tests that need
// them.
package testenv

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Need is something that a test needs from the machine.
type Need string

// What tests may need. Root means effective uid 0 with the capability to create
// namespaces and mounts; OCIRuntime means crun or runc in PATH.
const (
	Root       Need = "root"
	OCIRuntime Need = "ociruntime"
	Runc       Need = "runc"
	NFT        Need = "nft"        // the nft tool, to inspect rules from outside
	Containerd Need = "containerd" // Debian's containerd and ctr
	CNIPlugins Need = "cniplugins" // upstream's binaries in /usr/lib/cni
	QEMU       Need = "qemu"
	Systemd    Need = "systemd"    // as process 1
	Busybox    Need = "busybox"    // a static one, for a shell and tar in a container
	CRIU       Need = "criu"       // one that works with this kernel
	BridgeVLAN Need = "bridgevlan" // a kernel with VLAN filtering on bridges
	SELinux    Need = "selinux"    // one that enforces its policy
)

// Require skips the test unless the machine has all of the needs, or fails it if
// TESTENV_REQUIRE names a missing one.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	for _, n := range needs {
		missing := check(n)
		if missing == "" {
			continue
		}
		if required(n) {
			t.Fatalf("this test needs %s, TESTENV_REQUIRE demands it, and %s", n, missing)
		}
		t.Skipf("this test needs %s, and %s", n, missing)
	}
}

func required(n Need) bool {
	list := strings.Split(os.Getenv("TESTENV_REQUIRE"), ",")
	installable := n != Systemd && n != BridgeVLAN && n != CRIU && n != SELinux
	return slices.Contains(list, "all") && installable || slices.Contains(list, string(n))
}

func check(n Need) (missing string) {
	switch n {
	case Root:
		if os.Geteuid() != 0 {
			return "the effective uid is not 0: run it with sudo"
		}
		return ""
	case OCIRuntime:
		if anyInPath("crun", "runc") {
			return ""
		}
		return "neither crun nor runc is in PATH: apt-get install runc"
	case Runc:
		return inPath("runc", "runc")
	case NFT:
		return inPath("nft", "nftables")
	case Containerd:
		return inPath("containerd", "containerd")
	case QEMU:
		return inPath("qemu-system-x86_64", "qemu-system-x86")
	case CRIU:
		if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
			return "criu, a version that works with this kernel, is missing (criu check): " + err.Error() + " " + string(out)
		}
		return ""
	case Systemd:
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return "systemd is not process 1: make test-vm runs this test in a virtual machine"
		}
		return ""
	case BridgeVLAN:
		// In a namespace of its own, which ends with the command.
		if out, err := exec.Command("unshare", "-n", "ip", "link", "add", "type", "bridge", "vlan_filtering", "1").CombinedOutput(); err != nil {
			return "the kernel makes no bridge with vlan_filtering: make test-vm runs this test in a virtual machine: " + string(out)
		}
		return ""
	case SELinux:
		if on, err := os.ReadFile("/sys/fs/selinux/enforce"); err != nil || string(on) != "1" {
			return "SELinux does not enforce a policy: make test-vm runs this test in a virtual machine"
		}
		return ""
	case Busybox:
		return inPath("busybox", "busybox-static")
	case CNIPlugins:
		if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
			return "/usr/lib/cni/bridge is missing: apt-get install containernetworking-plugins"
		}
		return ""
	}
	return "testenv does not know " + string(n)
}

func anyInPath(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		_, err := exec.LookPath(n)
		return err == nil
	})
}

func inPath(program, pkg string) (missing string) {
	if anyInPath(program) {
		return ""
	}
	return program + " is not in PATH: apt-get install " + pkg
}
