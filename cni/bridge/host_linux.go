package bridge

import (
	"errors"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// plugin is the handlers' receiver.
type plugin struct {
	stays *resident // nil: nothing is kept between calls
}

// host holds the connections to the kernel in the network namespace in which the
// plugin is called. Only one call uses it at a time.
type host struct {
	ns    netns.ID // zero if nothing is kept between calls
	links *rtnl.Conn
	rules *nft.Conn
}

// openHost returns connections; the caller returns them with release.
func (p *plugin) openHost() (*host, error) {
	id, err := p.stays.kept().Here()
	if err != nil {
		return nil, err
	}
	if h, ok := p.stays.kept().Take(id); ok {
		return h, nil
	}
	h := &host{ns: id}
	if h.links, err = rtnl.Open(); err != nil {
		return nil, err
	}
	if h.rules, err = nft.Open(); err != nil {
		return nil, errors.Join(err, h.links.Close())
	}
	return h, nil
}

func (p *plugin) release(h *host) {
	if over, full := p.stays.kept().Put(h.ns, h); full {
		over.close()
	}
}

// close closes the sockets. Errors are ignored: a netlink socket has nothing to lose.
func (h *host) close() {
	_ = h.links.Close()
	_ = h.rules.Close()
}

// wiring holds the connections to both ends of a pair.
type wiring struct {
	*host
	inside *rtnl.Conn
}

// open opens the connections of an ADD, a CHECK or a repair.
func (p *plugin) open(r *cni.Request) (*wiring, error) {
	h, err := p.openHost()
	if err != nil {
		return nil, err
	}
	w := &wiring{host: h}
	// A socket stays in the namespace in which it was opened.
	err = netns.Visit(r.NetNSFD(), func() (err error) {
		w.inside, err = rtnl.Open()
		return err
	})
	if err != nil {
		p.release(h)
		return nil, err
	}
	return w, nil
}

func (p *plugin) closeWiring(w *wiring) {
	_ = w.inside.Close()
	p.release(w.host)
}
