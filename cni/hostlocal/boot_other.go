//go:build !linux

package hostlocal

// thisBoot returns the boot without an id: nothing is taken for older than it.
func thisBoot() boot { return boot{} }
