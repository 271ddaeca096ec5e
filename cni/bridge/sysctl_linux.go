package bridge

import (
	"errors"
	"os"

	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// ignoreAdvertisements keeps containers from telling the host its routes.
func ignoreAdvertisements(link string) error { return setIPv6(link, "accept_ra") }

// useAtOnce spares an interface towards the containers the search for duplicates of its
// link-local address. While that goes on, one or two seconds, the kernel asks nobody for the
// container of an IPv6 packet that it forwards, and other machines do not reach the first
// container of a bridge.
func useAtOnce(link string, c *Config) error {
	if c.EnableDAD {
		return nil
	}
	return setIPv6(link, "accept_dad")
}

// setIPv6 switches an IPv6 setting of an interface off.
func setIPv6(link, setting string) error {
	err := sysctl.Write("net/ipv6/conf/"+link+"/"+setting, "0")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}
