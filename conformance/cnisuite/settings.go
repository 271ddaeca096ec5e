package cnisuite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// settings are the attributes of an interface, in words. What is attached to it,
// addresses and routes are checked elsewhere.
type settings []string

// settingsIn returns those of each interface of a namespace, by name.
func settingsIn(ns string) (map[string]settings, error) {
	all := map[string]settings{}
	err := netns.Do(ns, func() error {
		links, err := redump.List(netlink.LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			attrs := link.Attrs()
			all[attrs.Name] = append(switches(attrs.RawFlags), "mac "+attrs.HardwareAddr.String(), fmt.Sprint("mtu ", attrs.MTU),
				fmt.Sprint("txqueuelen ", attrs.TxQLen), fmt.Sprintf("alias %q", attrs.Alias))
		}
		return nil
	})
	return all, err
}

// other reports which of an interface's settings have changed.
func (s settings) other(now settings) error {
	if lost, more := without(s, now), without(now, s); len(lost)+len(more) > 0 {
		return fmt.Errorf("before: %s; now: %s", inWords(lost), inWords(more))
	}
	return nil
}

// without returns what one list has and the other does not.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(word string) bool { return slices.Contains(other, word) })
}

func inWords(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
