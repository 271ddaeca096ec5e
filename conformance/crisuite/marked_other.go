//go:build !linux

package crisuite

import "errors"

func (r *runtime) markedPIDs() ([]int, error) { return nil, errors.ErrUnsupported }
