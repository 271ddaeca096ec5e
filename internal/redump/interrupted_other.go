//go:build !linux

package redump

// interrupted reports whether err means that a dump is inconsistent. Only Linux has netlink.
func interrupted(error) bool { return false }
