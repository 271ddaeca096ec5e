package hostlocal

import (
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// PluginIn returns the plugin as it behaves in a boot with the id.
func PluginIn(id string, since time.Time, uptime time.Duration) *cni.Plugin {
	return plugin(func() boot { return boot{id: id, since: since, uptime: uptime} })
}
