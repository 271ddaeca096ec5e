package leak

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftRule is a rule as the kernel reports it. It is parsed without a library that
// knows every expression, because a snapshot must not fail on an unknown one.
type nftRule struct {
	handle uint64
	// id identifies the rule by what it does, without its counters and its handle: a
	// rule that was added again is the same.
	id    string
	words []string // the kinds of its expressions
}

func rulesOf(chain *nftables.Chain) ([]nftRule, error) {
	const getRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
	request := nl.NewNetlinkRequest(getRule, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(chain.Table.Family), Version: nl.NFNETLINK_V0})
	request.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(chain.Table.Name)))
	request.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain.Name)))
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, err
	}
	var all []nftRule
	for _, m := range messages {
		rule, err := parseRule(m)
		if err != nil {
			return nil, fmt.Errorf("a rule: %w", err)
		}
		all = append(all, rule)
	}
	return all, nil
}

func parseRule(message []byte) (rule nftRule, err error) {
	err = attributes(message[min(nl.SizeofNfgenmsg, len(message)):], func(kind uint16, value []byte) error {
		switch kind {
		case unix.NFTA_RULE_HANDLE:
			if len(value) == 8 {
				rule.handle = binary.BigEndian.Uint64(value)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			return attributes(value, func(_ uint16, value []byte) error { return rule.expression(value) })
		case unix.NFTA_RULE_USERDATA:
			rule.id += string(value)
		}
		return nil
	})
	return rule, err
}

// expression adds an expression, unless it is only a counter.
func (r *nftRule) expression(value []byte) error {
	word, data := "", ""
	err := attributes(value, func(kind uint16, value []byte) error {
		if kind == unix.NFTA_EXPR_NAME {
			word = strings.TrimRight(string(value), "\x00")
		} else {
			data += string(value)
		}
		return nil
	})
	if err == nil && word != "counter" && word != "last" {
		r.id += " " + word + data
		r.words = append(r.words, word)
	}
	return err
}

// attributes calls each for every attribute of a message.
func attributes(message []byte, each func(kind uint16, value []byte) error) error {
	all, err := nl.ParseRouteAttr(message)
	for _, a := range all {
		if err := each(a.Attr.Type&nl.NLA_TYPE_MASK, a.Value); err != nil {
			return err
		}
	}
	return err
}
