//go:build !linux

package topdir

import (
	"errors"
	"os"
)

func mark(string) {}

func marked(string) (bool, error) { return false, errors.ErrUnsupported }

func unnamed(string, os.FileMode) (*os.File, error) { return nil, errors.ErrUnsupported }

func name(*os.File, string) error { return errors.ErrUnsupported }
