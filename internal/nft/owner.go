// Package nft programs nftables over netlink for CNI plugins. A table is described as
// a whole and created on first use; its sets and maps have one element for each thing
// that a container needs.
//
// The number of rules depends on what the table does, not on the number of
// containers. Every element carries the name of its owner, so that a container's
// elements can be removed without knowing what they were. Rules carry a tag of their
// definition, so that a caller that adds elements sees at once if some are missing or
// of another version, and creates them anew.
//
// Every change is one transaction: it happens completely or not at all. The table
// belongs to the network namespace of the calling thread. Everything is safe for
// concurrent use, also between processes.
package nft

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// maxOwner keeps owners well below what the kernel stores with an element.
const maxOwner = 120

// Owner returns the name under which an attachment of a network owns elements. A name
// that is too long to be stored is replaced by its hash.
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
