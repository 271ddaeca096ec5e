package hostlocal

import (
	"context"
	"encoding/binary"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// PluginIn returns the plugin as it behaves in a boot with the id, of which the
// time is the first, and which has lasted so long.
func PluginIn(id string, since time.Time, uptime time.Duration) *cni.Plugin {
	return plugin(func() boot { return boot{id: id, since: since, uptime: uptime} })
}

// IndexBelieved tells whether a call would now believe the network's index.
func IndexBelieved(networkDir string) (believed bool, err error) {
	s := newStore(filepath.Dir(networkDir), filepath.Base(networkDir), thisBoot(), slog.New(slog.DiscardHandler))
	err = withStore(context.Background(), s, false, func() error {
		believed = s.idx.fd >= 0 && !s.changed
		s.changed = false
		return nil
	})
	return believed, err
}

// What the fuzz tests need.
var (
	ParseOwner      = parseOwner
	ParseSpan       = parseSpan
	ParseResolvConf = parseResolvConf
)

// Reseal makes the checksums of an index right.
func Reseal(index []byte) {
	for at := 0; at+pageSize <= len(index); at += pageSize {
		page := index[at:][:pageSize]
		binary.LittleEndian.PutUint64(page, sumOf(page))
	}
}
