package nft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// prefix begins every tag.
const prefix = "nodekit "

// tag is carried by every rule, as a comment that nft(8) prints and restores. It
// distinguishes this definition from those of other versions, whose rules may look
// for other things in sets of the same names.
func (rs *Ruleset) tag() ([]byte, error) {
	if rs.Tag != "" {
		return comment(prefix + rs.Tag), nil
	}
	digest, err := rs.Digest()
	return comment(prefix + digest), err
}

// Digest returns a digest of everything in the definition but the table's name and
// the tag. It is made once.
func (rs *Ruleset) Digest() (string, error) {
	rs.digestOnce.Do(func() { rs.digest, rs.digestErr = rs.makeDigest() })
	return rs.digest, rs.digestErr
}

func (rs *Ruleset) makeDigest() (string, error) {
	h := sha256.New()
	fmt.Fprint(h, rs.Bridge, rs.Sets)
	for _, ch := range rs.Chains {
		fmt.Fprint(h, ch.Name, ch.Type, *ch.Hook, *ch.Priority, len(ch.Rules))
		for _, rule := range ch.Rules {
			for _, e := range rule {
				b, err := expr.Marshal(uint8(rs.family()), e)
				if err != nil {
					return "", fmt.Errorf("a rule of chain %q: %w", ch.Name, err)
				}
				h.Write(b)
			}
		}
	}
	const size = 8 // of the digest: enough to distinguish a few versions
	return hex.EncodeToString(h.Sum(nil)[:size]), nil
}

// Ensure defines the table unless it has every rule of the definition; other rules in
// its chains are then replaced, and elements stay. Callers do this before they add
// elements, because others flush tables, and because the table may be of another
// version. If there is nothing to do, it asks the kernel once.
func (c *Conn) Ensure(rs *Ruleset) error {
	err := c.Verify(rs)
	if errors.Is(err, fault.NotFound) {
		return rs.Define()
	}
	return err
}

// Verify reports every chain that is missing or lacks rules of the definition, as
// fault.NotFound. Rules that others have added do not matter.
func (c *Conn) Verify(rs *Ruleset) error {
	tag, err := rs.tag()
	if err != nil {
		return err
	}
	have, err := c.tagged(rs)
	if err != nil {
		return err
	}
	missing := rs.missing(have, tag)
	if missing == nil || rs.Tag == "" {
		return missing
	}
	// A version that gave the definition no Tag made the same rules with the digest.
	digest, err := rs.Digest()
	if err != nil {
		return err
	}
	if rs.missing(have, comment(prefix+digest)) == nil {
		return nil
	}
	return missing
}

// tagged counts the table's rules with each tag in each chain.
func (c *Conn) tagged(rs *Ruleset) (map[tagIn]int, error) {
	m := message(fmt.Sprintf("listing the rules of nftables table %q", rs.Table), unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, uint8(rs.family()))
	m.String(unix.NFTA_RULE_TABLE, rs.Table)
	replies, err := c.dump(m)
	out := map[tagIn]int{}
	for _, b := range replies {
		if chain, table, data := parseRule(b); table == rs.Table {
			out[tagIn{chain, string(data)}]++
		}
	}
	return out, err
}

// tagIn is a tag in a chain.
type tagIn struct{ chain, tag string }

// missing reports every chain that has not as many rules with the tag as it should.
func (rs *Ruleset) missing(have map[tagIn]int, tag []byte) error {
	var errs []error
	for _, ch := range rs.Chains {
		if n := have[tagIn{ch.Name, string(tag)}]; n != len(ch.Rules) {
			errs = append(errs, fault.NotFound.Errorf("chain %q of nftables table %q has %d rules of this version instead of %d", ch.Name, rs.Table, n, len(ch.Rules)))
		}
	}
	return errors.Join(errs...)
}

// parseRule returns where a rule is, and the user data that its creator attached.
func parseRule(reply []byte) (chain, table string, data []byte) {
	if len(reply) < headerLen {
		return "", "", nil
	}
	nlsock.Attrs(reply[headerLen:], func(kind uint16, v []byte) {
		switch kind {
		case unix.NFTA_RULE_CHAIN:
			chain = nlsock.String(v)
		case unix.NFTA_RULE_TABLE:
			table = nlsock.String(v)
		case unix.NFTA_RULE_USERDATA:
			data = v
		}
	})
	return chain, table, data
}

// Mend is Ensure for callers that have no elements to add: if there is no table it
// does nothing, and it logs what was lost.
func (c *Conn) Mend(rs *Ruleset, log *slog.Logger) error {
	there, err := c.exists(rs)
	if err != nil || !there {
		return err
	}
	err = c.Verify(rs)
	if errors.Is(err, fault.NotFound) {
		log.Warn("making nftables rules anew that somebody removed, or that are of another version", "err", err)
		return rs.Define()
	}
	return err
}

func (c *Conn) exists(rs *Ruleset) (bool, error) {
	m := message(fmt.Sprintf("looking for nftables table %q", rs.Table), unix.NFT_MSG_GETTABLE, 0, uint8(rs.family()))
	m.String(unix.NFTA_TABLE_NAME, rs.Table)
	answers, err := c.socket.Exchange(m)
	if err != nil {
		return false, err
	}
	err = answers[0].Err
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// Try reports whether the kernel and the caller's privileges allow a table with the
// chains of this one: it begins a transaction that creates them in another table, and
// never commits it, so that the kernel discards it.
func (c *Conn) Try(rs *Ruleset) error {
	trial, family := rs.Table+"-trial", uint8(rs.family())
	t := message("trying an nftables table", unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family)
	t.String(unix.NFTA_TABLE_NAME, trial)
	messages := []*nlsock.Message{t}
	for _, ch := range rs.Chains {
		m := message(fmt.Sprintf("trying an nftables chain of type %s", ch.Type), unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family)
		m.String(unix.NFTA_CHAIN_TABLE, trial)
		m.String(unix.NFTA_CHAIN_NAME, ch.Name)
		m.String(unix.NFTA_CHAIN_TYPE, string(ch.Type))
		m.Nest(unix.NFTA_CHAIN_HOOK, func() {
			m.Bytes(unix.NFTA_HOOK_HOOKNUM, binary.BigEndian.AppendUint32(nil, uint32(*ch.Hook)))
			m.Bytes(unix.NFTA_HOOK_PRIORITY, binary.BigEndian.AppendUint32(nil, uint32(*ch.Priority)))
		})
		messages = append(messages, m)
	}
	batch := framed("trying nftables", messages)
	answers, err := c.socket.Exchange(batch[:len(batch)-1]...)
	return errors.Join(err, firstError(answers))
}
