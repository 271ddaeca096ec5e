//go:build !linux

package topdir

import "errors"

func mark(string) {}

func marked(string) (bool, error) { return false, errors.ErrUnsupported }
