package bridge

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// del works from the outside in: an active port never lacks the rules that restrict
// it. Addresses are released afterwards, so until then nobody else can get them. It
// never enters a network namespace, so it cannot harm one that belongs to another
// container by now.
func (p *plugin) del(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		r.Log.Warn("removing an attachment of an invalid configuration", "err", err)
	}
	h, err := p.openHost()
	if err != nil {
		return err
	}
	// The kernel's grace period for elements elapses while it removes the pair.
	defer p.release(h)
	id := identify(r.Network, r.Attachment)
	l, err := ownLink(h.links, id, r.Log)
	if err == nil && l != nil {
		l, err = p.silence(h, l, id, r.Log)
	}
	if err != nil {
		return err
	}
	err = removeRules(h.rules, c, id)
	switch {
	case l == nil:
		return err
	case p.stays != nil:
		return errors.Join(err, p.stays.remove(h, l, r.Log))
	}
	return errors.Join(err, deleteLink(h.links, l))
}

// silence makes the pair ineffective without waiting for its removal. It returns nil
// if the pair is gone, or if its port cannot be disabled, so that the pair is removed
// at once.
func (p *plugin) silence(h *host, l *rtnl.Link, id identity, log *slog.Logger) (*rtnl.Link, error) {
	err := h.links.Do(rtnl.DisablePort(l, id.leaving(), p.leavingGroup())...)
	switch {
	case err == nil:
		return l, nil
	case rtnl.IsNotFound(err):
		return nil, nil
	}
	log.Warn("removing a pair at once because its port cannot be disabled", "link", l.Name, "err", err)
	return nil, deleteLink(h.links, l)
}

// disconnect removes an attachment's pair and waits for that. It succeeds if there is
// none.
func disconnect(links *rtnl.Conn, id identity, log *slog.Logger) error {
	l, err := ownLink(links, id, log)
	if err != nil || l == nil {
		return err
	}
	return deleteLink(links, l)
}

// ownLink returns the host end of the attachment's pair, or nil if there is none or
// another interface has its name.
func ownLink(links *rtnl.Conn, id identity, log *slog.Logger) (*rtnl.Link, error) {
	l, err := links.Link(id.host)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if l.Kind != "veth" || !id.owns(l.Alias) {
		if log != nil {
			log.Warn("leaving an interface that has an attachment's name and is not its", "link", l.Name, "kind", l.Kind, "alias", l.Alias)
		}
		return nil, nil
	}
	return l, nil
}

// gc removes the pairs and elements of the network's attachments that are not valid,
// all pairs in the time that one takes.
func (p *plugin) gc(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	h, err := p.openHost()
	if err != nil {
		return err
	}
	defer p.release(h)
	keep := map[string]bool{}
	for _, a := range r.Valid {
		keep[nft.Owner(r.Network, a.String())] = true
	}
	stale := func(owner string) bool { return nft.OfNetwork(owner, r.Network) && !keep[owner] }
	return errors.Join( // from the outside in, as in DEL
		h.removePairs(r.Network, stale),
		h.rules.RemoveOwned(masquerading(c), stale),
		h.rules.RemoveOwned(spoofChecking(c), stale),
	)
}

// removePairs removes the network's pairs whose owner is stale or whose removal is
// pending.
func (h *host) removePairs(network string, stale func(owner string) bool) error {
	all, err := h.links.Veths()
	if err != nil {
		return err
	}
	group := newGroup()
	var errs []error
	found := false
	for _, l := range all {
		owner, leaving := ownerOf(l.Alias)
		if !stale(owner) && (!leaving || !nft.OfNetwork(owner, network)) {
			continue
		}
		err := h.links.Do(rtnl.SetGroup(l, group))
		if err != nil && !rtnl.IsNotFound(err) {
			errs = append(errs, err)
		}
		found = true
	}
	if found {
		if err := h.links.Do(rtnl.DeleteGroup(group)); err != nil && !rtnl.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// status reports what the kernel lacks for an ADD. It restores removed rules at once:
// runtimes call STATUS often and CHECK hardly ever, and a node that only reported the
// loss would get no ADD that restores them.
func (p *plugin) status(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	h, err := p.openHost()
	if err != nil {
		return cni.Errorf(cni.CodeUnavailable, "%w", err)
	}
	defer p.release(h)
	if c.IPMasq {
		if err := h.rules.Try(masquerading(c)); err != nil {
			return cni.Errorf(cni.CodeUnavailable, "ipMasq needs address translation by nftables: %w", err)
		}
	}
	if c.MACSpoofCheck {
		if err := h.rules.Try(spoofChecking(c)); err != nil {
			return cni.Errorf(cni.CodeUnavailable, "macspoofchk needs nftables of family bridge (CONFIG_NF_TABLES_BRIDGE): %w", err)
		}
	}
	if c.IPMasq || c.MACSpoofCheck {
		if err := errors.Join(h.rules.Mend(masquerading(c), r.Log), h.rules.Mend(spoofChecking(c), r.Log)); err != nil {
			return cni.Errorf(cni.CodeLimitedConnection, "rules that are lost: %w", err)
		}
	}
	br, err := h.links.Link(c.Bridge)
	switch {
	case errors.Is(err, fault.NotFound):
		err = errors.Join(h.links.Probe("bridge"), h.links.Probe("veth"))
	case err == nil:
		err = h.refuses(br, c)
	}
	if err != nil {
		return cni.Errorf(cni.CodeUnavailable, "%w", err)
	}
	return nil
}

// Teardown removes the bridge, its nftables tables and the gateways of its VLANs. It
// is for an owner who knows that no container uses them any more, such as a node that
// is uninstalled. The plugin itself never does this, because networks may share them.
// Teardown succeeds if they do not exist. Sysctls stay as they are.
func Teardown(_ context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	links, err := rtnl.Open()
	if err != nil {
		return err
	}
	return errors.Join(
		masquerading(&c).Delete(), spoofChecking(&c).Delete(),
		removeBridge(links, c.Bridge), links.Close(),
	)
}

// removeBridge removes the bridge and the pairs created for it: those of its
// gateways, and those whose removal is pending.
func removeBridge(links *rtnl.Conn, name string) error {
	br, err := links.Link(name)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if br.Kind != "bridge" {
		return wrongKind(br)
	}
	ports, err := links.Ports(br.Index)
	errs := []error{err}
	for _, port := range ports {
		if _, leaving := ownerOf(port.Alias); leaving || strings.HasPrefix(port.Alias, gatewayPrefix) {
			errs = append(errs, deleteLink(links, port))
		}
	}
	return errors.Join(append(errs, deleteLink(links, br))...)
}
