package portmap

import (
	"errors"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/nspool"
)

// plugin is the handlers' receiver.
type plugin struct {
	stays *resident // nil: nothing is kept between calls
}

// resident is what the plugin keeps in a process that stays.
type resident struct{ conns nspool.Pool[*nft.Conn] }

func newResident() *resident { return &resident{} }

// kept is where connections are kept; nil, which keeps none, of a plugin that does not
// stay.
func (s *resident) kept() *nspool.Pool[*nft.Conn] {
	if s == nil {
		return nil
	}
	return &s.conns
}

func (s *resident) close() error {
	var errs []error
	for _, c := range s.conns.Close() {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// connectedTo calls fn with a table of the network namespace that the plugin is called
// in.
func (p *plugin) connectedTo(rules *nft.Ruleset, fn func(*view) error) (err error) {
	ns, err := netns.CurrentID()
	if err != nil {
		return err
	}
	conn, ok := p.stays.kept().Take(ns)
	if !ok {
		if conn, err = nft.Open(); err != nil {
			return err
		}
	}
	defer func() { // after a panic, too, which a server survives
		if over, full := p.stays.kept().Put(ns, conn); full {
			err = errors.Join(err, over.Close())
		}
	}()
	return fn(&view{plugin: p, conn: conn, rules: rules})
}
