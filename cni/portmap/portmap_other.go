//go:build !linux

package portmap

import (
	"context"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

var errOS = fault.Unimplemented.Errorf("port mappings need Linux")

func add(context.Context, *cni.Request, *Config) (*cni.Result, error) { return nil, errOS }
func del(context.Context, *cni.Request, *Config) error                { return errOS }
func check(context.Context, *cni.Request, *Config) error              { return errOS }
func gc(context.Context, *cni.Request, *Config) error                 { return errOS }
func status(context.Context, *cni.Request, *Config) error             { return errOS }
func repair(context.Context, *cni.Request, *Config) error             { return errOS }

// Teardown needs Linux.
func Teardown(context.Context, Config) error { return errOS }
