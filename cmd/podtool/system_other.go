//go:build !linux

package main

import (
	"context"
	"errors"
)

func runWindow(*tool, context.Context, []string) error { return errors.ErrUnsupported }

func runBind(*tool, context.Context, []string) error { return errors.ErrUnsupported }
