// Package rtnl describes links, addresses and routes to the kernel over
// rtnetlink, for plugins that must be quick: nothing is listed that can be asked
// for by name, and what belongs together is one request (see internal/nlsock).
//
// A Conn works in the network namespace that it was opened in, whichever thread
// uses it.
package rtnl
