// Package loopback is the loopback CNI plugin (specification 1.1.0): it brings a
// container's loopback interface up, whatever CNI_IFNAME says.
//
// The interface belongs to the namespace and gets its addresses from the kernel, so
// there is nothing to undo: DEL leaves it as it is, and so never touches a namespace
// that belongs to another container by then.
package loopback

import "github.com/nodekit-project/nodekit/cni"

// config has no keys.
type config struct{}

// Plugin returns the plugin, under its usual name "loopback".
func Plugin() *cni.Plugin {
	p := cni.New("loopback", cni.Handlers[config]{Add: add, Check: check, Repair: repair})
	p.Adjusts = true
	return p
}
