//go:build !linux

package loopback

import (
	"context"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

var errOS = fault.Unimplemented.Errorf("loopback interfaces need Linux")

func add(context.Context, *cni.Request, *config) (*cni.Result, error) { return nil, errOS }
func check(context.Context, *cni.Request, *config) error              { return errOS }
func repair(context.Context, *cni.Request, *config) error             { return errOS }
