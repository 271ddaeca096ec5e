package portmap

import (
	"errors"

	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/nspool"
)

// plugin is the handlers' receiver.
type plugin struct {
	kept *nspool.Pool[*nft.Conn] // nil, which keeps none, unless the process is long-running
}

func newResident() *plugin { return &plugin{new(nspool.Pool[*nft.Conn])} }

func (p *plugin) close() error {
	var errs []error
	for _, c := range p.kept.Close() {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// connectedTo calls fn with a table of the network namespace in which the plugin is
// called.
func (p *plugin) connectedTo(rules *nft.Ruleset, fn func(*view) error) (err error) {
	ns, err := p.kept.Here()
	if err != nil {
		return err
	}
	conn, ok := p.kept.Take(ns)
	if !ok {
		if conn, err = nft.Open(); err != nil {
			return err
		}
	}
	defer func() { // also after a panic, which a server survives
		if over, full := p.kept.Put(ns, conn); full {
			err = errors.Join(err, over.Close())
		}
	}()
	return fn(&view{plugin: p, conn: conn, rules: rules})
}
