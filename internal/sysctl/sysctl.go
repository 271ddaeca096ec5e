// Package sysctl reads and writes kernel variables below /proc/sys, by their paths
// there. Those below net/ belong to the calling thread's network namespace. If a
// variable does not exist, the error is os.ErrNotExist. It needs Linux.
package sysctl

// Forwarding returns the name of the variable that makes the host forward packets of
// the family.
func Forwarding(ipv4 bool) string {
	if ipv4 {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}
