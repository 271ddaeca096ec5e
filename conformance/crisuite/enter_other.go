//go:build !linux

package crisuite

import "errors"

func enterNetNS(string) func() error {
	return func() error { return errors.New("network namespaces need Linux") }
}
