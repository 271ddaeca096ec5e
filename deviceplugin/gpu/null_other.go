//go:build !linux

package gpu

import "github.com/nodekit-project/nodekit/internal/fault"

func makeNull(string) error {
	return fault.Unimplemented.Errorf("simulated GPUs need Linux")
}
