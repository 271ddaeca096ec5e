//go:build !linux

package nft

import "github.com/nodekit-project/nodekit/internal/fault"

// FlushAll needs Linux.
func FlushAll() error { return fault.Unimplemented.Errorf("nftables needs Linux") }

// CutOff needs Linux.
func CutOff() (int, error) { return 0, fault.Unimplemented.Errorf("nftables needs Linux") }
