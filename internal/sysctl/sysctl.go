// Package sysctl reads and writes the kernel's variables below /proc/sys, by their
// paths there. Those below net/ are of the calling thread's network namespace. An
// error for a variable that does not exist is os.ErrNotExist. It needs Linux.
package sysctl

// Forwarding returns the name of the variable that has the host forward packets
// of the family.
func Forwarding(ipv4 bool) string {
	if ipv4 {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}
