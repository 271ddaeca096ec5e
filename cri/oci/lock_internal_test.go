package oci

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestNothingLocked: there is nothing to do in a network namespace that no criu has
// blocked.
func TestNothingLocked(t *testing.T) {
	testenv.Require(t, testenv.Root)
	err := nspin.OnThrowAwayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return errors.Join(dropChains(t.Context(), "iptables"), dropChains(t.Context(), "ip6tables"), dropTables(t.Context()))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestHalfLocked: criu removes its rules in steps, so a killed one leaves the remaining
// ones. A criu that blocks what is already blocked adds its rules twice.
func TestHalfLocked(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	for _, tool := range []string{"iptables", "ip6tables"} {
		for name, rules := range map[string]string{
			"the chain alone": "",
			"one rule":        "-I OUTPUT -j CRIU\n",
			"all":             "-I INPUT -j CRIU\n-I OUTPUT -j CRIU\n-A CRIU -j DROP\n",
			"twice":           strings.Repeat("-I INPUT -j CRIU\n-I OUTPUT -j CRIU\n-A CRIU -j DROP\n", 2),
		} {
			const kept = "-A INPUT -m mark --mark 0x7 -j DROP"
			var left string
			err := nspin.OnThrowAwayThread(func() error {
				if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
					return err
				}
				cmd := exec.Command(tool+"-restore", "--noflush")
				cmd.Stdin = strings.NewReader("*filter\n:CRIU - [0:0]\n" + kept + "\n" + rules + "COMMIT\n")
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w", out, err)
				}
				undone := dropChains(t.Context(), tool)
				out, err := exec.Command(tool, "-S").CombinedOutput()
				left = string(out)
				return errors.Join(undone, err)
			})
			if err != nil || strings.Contains(left, "CRIU") || !strings.Contains(left, kept) {
				t.Errorf("%s: %s: %v, and there is %s", tool, name, err, left)
			}
		}
	}
}

// TestUnlessUnable: an error about a feature that the kernel lacks is ignored; every
// other one is returned.
func TestUnlessUnable(t *testing.T) {
	for says, none := range map[string]bool{
		"iptables v1.8.9 (legacy): can't initialize iptables table `filter': Table does not exist (do you need to insmod?)": true,
		"ip6tables v1.8.9 (legacy): can't initialize ip6tables table `filter': Address family not supported by protocol":    true,
		"iptables v1.8.9 (nf_tables): table `filter' is incompatible, use 'nft' tool.":                                      false,
		"Another app is currently holding the xtables lock; still -1s 0us time ahead to have a chance to grab the lock...":  false,
		"iptables v1.8.9 (legacy): can't initialize iptables table `filter': Permission denied (you must be root)":          false,
		"iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)":         false,
	} {
		err := &exec.ExitError{Stderr: []byte(says + "\n")}
		if got := unlessUnable(errors.New(complaintOf(err))); (got == nil) != none {
			t.Errorf("%s: %v", says, got)
		}
	}
	if got := complaintOf(exec.ErrNotFound); got != "" {
		t.Errorf("of a program that is not there: %q", got)
	}
}
