//go:build !linux

package portmap

import (
	"context"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

var errOS = fault.Unimplemented.Errorf("port mappings need Linux")

type plugin struct{}

func newResident() *plugin     { return &plugin{} }
func (p *plugin) close() error { return nil }

func (p *plugin) add(context.Context, *cni.Request, *Config) (*cni.Result, error) { return nil, errOS }
func (p *plugin) del(context.Context, *cni.Request, *Config) error                { return errOS }
func (p *plugin) check(context.Context, *cni.Request, *Config) error              { return errOS }
func (p *plugin) gc(context.Context, *cni.Request, *Config) error                 { return errOS }
func (p *plugin) status(context.Context, *cni.Request, *Config) error             { return errOS }
func (p *plugin) repair(context.Context, *cni.Request, *Config) error             { return errOS }

// Teardown needs Linux.
func Teardown(context.Context, Config) error { return errOS }
