package hostlocal

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
)

// An index file is a second name of a reservation's file, made of the owner and
// the address: .owner-<key>-<address>. Where both names have one inode they are
// one file, whose owner is then known without reading it, and reading every file
// is what makes a large network slow. Upstream's plugin, which may come in
// between, sees a file that is no address and removes it with the other one;
// what it makes itself has no index file and is read.
const indexPrefix = ".owner-"

// entry is a name in the network's directory.
type entry struct {
	name  string
	inode uint64
	addr  netip.Addr // of a reservation
}

// indexed is what the name of an index file says.
type indexed struct {
	entry entry
	key   string
	addr  netip.Addr
}

// reservation is an address that is taken.
type reservation struct {
	key   string         // of the owner
	owner cni.Attachment // zero when an index file told the key
}

// of reports whether the reservation is the attachment's. Early versions of the
// upstream plugin wrote no interface name; such a file was read.
func (r reservation) of(a cni.Attachment) bool {
	return r.key == keyOf(a) || r.owner.ContainerID == a.ContainerID && r.owner.IfName == ""
}

func keyOf(a cni.Attachment) string {
	sum := sha256.Sum256([]byte(a.String()))
	return hex.EncodeToString(sum[:16])
}

func indexName(key string, a netip.Addr) string { return indexPrefix + key + "-" + a.String() }

func parseIndex(e entry) (i indexed, ok bool) {
	rest, ok := strings.CutPrefix(e.name, indexPrefix)
	if !ok {
		return i, false
	}
	key, text, _ := strings.Cut(rest, "-")
	addr, err := netip.ParseAddr(text)
	return indexed{entry: e, key: key, addr: addr}, err == nil
}
