package sysctl_test

import (
	"errors"
	"os"
	"testing"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/sysctl"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestSysctl(t *testing.T) {
	testenv.Require(t, testenv.Root)
	name := sysctl.Forwarding(true)
	err := netns.Do(netnstest.New(t), func() error {
		for _, set := range []func(string, string) error{sysctl.Write, sysctl.Ensure, sysctl.Ensure} {
			for _, value := range []string{"1", "0"} {
				err := set(name, value)
				if got, rerr := sysctl.Read(name); got != value || err != nil || rerr != nil {
					t.Errorf("%s is %q, want %q: %v, %v", name, got, value, err, rerr)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_, err = sysctl.Read("net/ipv4/nothing")
	for _, err := range []error{err, sysctl.Write("net/ipv4/nothing", "1"), sysctl.Ensure("net/ipv4/nothing", "1")} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a variable that is not there: %v", err)
		}
	}
}
