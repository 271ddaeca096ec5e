// Package nft programs nftables over netlink for CNI plugins: a table that is
// described whole, made on first use, and whose sets and maps hold one element
// for each thing that a container needs.
//
// Rules are as many as the table has kinds of work, never as many as there are
// containers, and every element carries the name of its owner, so that what
// belongs to a container can be removed without knowing what it was. Rules carry a
// tag of their definition, so that who adds elements sees at once when some are
// missing or of another version, and makes them anew.
//
// Every change is one transaction: it happens whole or not at all. The table
// belongs to the network namespace of the calling thread. All of it is safe for
// concurrent use, between processes too.
package nft

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// maxOwner keeps owners well below what the kernel stores with an element.
const maxOwner = 120

// Owner returns the name under which an attachment of a network owns elements.
// One that is too long to be stored is replaced by its hash.
func Owner(network, attachment string) string {
	if s := network + "/" + attachment; len(s) <= maxOwner {
		return s
	}
	sum := sha256.Sum256([]byte(attachment))
	return fmt.Sprintf("%s%x", hashedNetwork(network), sum[:16])
}

// OfNetwork reports whether the owner is an attachment of the network.
func OfNetwork(owner, network string) bool {
	return strings.HasPrefix(owner, network+"/") || strings.HasPrefix(owner, hashedNetwork(network))
}

func hashedNetwork(network string) string {
	sum := sha256.Sum256([]byte(network))
	return fmt.Sprintf("#%x/", sum[:8])
}
