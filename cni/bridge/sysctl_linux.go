package bridge

import (
	"errors"
	"os"

	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// ignoreAdvertisements keeps containers from telling the host its routes.
func ignoreAdvertisements(link string) error {
	err := sysctl.Write("net/ipv6/conf/"+link+"/accept_ra", "0")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}
