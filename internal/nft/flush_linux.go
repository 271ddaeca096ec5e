package nft

import (
	"fmt"

	"github.com/google/nftables"
)

// FlushAll removes every table of the network namespace, whoever made it, as
// `nft flush ruleset` does.
func FlushAll() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing every nftables table: %w", err)
	}
	return nil
}
