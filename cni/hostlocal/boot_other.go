//go:build !linux

package hostlocal

// thisBoot returns a boot without an id, so that nothing is considered stale.
func thisBoot() boot { return boot{} }
