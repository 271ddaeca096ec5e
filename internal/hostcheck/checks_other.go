//go:build !linux

package hostcheck

import "runtime"

func checks() []check {
	return []check{{"operating system", true, func() (found, fix string) {
		return runtime.GOOS, "run a node on Linux: namespaces, cgroups and mounts are Linux's"
	}}}
}
