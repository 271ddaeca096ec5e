package oci

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestNothingLocked: in a network namespace that no criu has locked there is nothing to do.
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

// TestUnlessUnable: what a kernel cannot do it has not done, and everything else is told.
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
