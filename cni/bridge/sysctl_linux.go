package bridge

import (
	"errors"
	"os"

	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// ignoreAdvertisements keeps the host from accepting router advertisements of
// containers.
func ignoreAdvertisements(link string) error { return setIPv6(link, "accept_ra") }

// useAtOnce disables duplicate address detection on an interface towards the
// containers. While its link-local address is tentative, one or two seconds, the
// kernel sends no neighbour solicitation for an IPv6 packet that it forwards, and
// other machines cannot reach the first container of a bridge.
func useAtOnce(link string, c *Config) error {
	if c.EnableDAD {
		return nil
	}
	return setIPv6(link, "accept_dad")
}

// setIPv6 sets an IPv6 sysctl of an interface to 0.
func setIPv6(link, setting string) error {
	err := sysctl.Write("net/ipv6/conf/"+link+"/"+setting, "0")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}
