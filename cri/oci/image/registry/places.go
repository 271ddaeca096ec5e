package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/cri/oci/image/registry/hosts"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// places are where one image can be read: the mirrors of its registry and the registry
// itself, in the order in which they are tried.
type places struct {
	ref       name.Reference
	opts      Options
	all       []*endpoint
	impatient bool // does not wait for busy places
}

func newPlaces(ref string, opts *Options) (*places, error) {
	p := &places{opts: *opts}
	if p.opts.Logger == nil {
		p.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if p.opts.Stall == 0 {
		p.opts.Stall = defaultStall
	}
	var how []name.Option
	if opts.PlainHTTP {
		how = append(how, name.Insecure)
	}
	var err error
	if p.ref, err = content.ParseReference(ref, how...); err != nil {
		return nil, err
	}
	registry := registryName(p.ref)
	configured, notices, err := hosts.Load(opts.Hosts, registry)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		p.opts.Logger.Warn("configuration of a registry", "registry", registry, "notice", n)
	}
	for _, h := range configured {
		e, err := newEndpoint(p.ref, h, &p.opts)
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, e)
	}
	return p, nil
}

// registryName returns the registry of a reference under the name that users know.
func registryName(r name.Reference) string {
	return strings.SplitN(content.Repository(r), "/", 2)[0]
}

// try calls do with one place after the other until it succeeds. Places that could not be
// reached before, or served wrong content, are tried only if no other is left. If none
// serves, all are tried again later, provided that one is busy and the registry itself
// does not give a reason for the failure.
func (p *places) try(ctx context.Context, fits func(hosts.Host) bool, do func(*endpoint) error) error {
	var candidates []*endpoint
	for _, e := range p.all {
		if fits(e.host) {
			candidates = append(candidates, e)
		}
	}
	for times := 1; ; times++ {
		busy, failed := p.round(ctx, candidates, do)
		if len(busy) == 0 || p.impatient || !errors.Is(failed, fault.Unavailable) {
			return failed
		}
		p.opts.Logger.Info("waiting for who is busy", "image", p.ref.Name(), "err", failed)
		if !patience(ctx, busy, times) {
			return failed
		}
	}
}

// round tries each place once. It returns those that were busy; without an error there
// are none.
func (p *places) round(ctx context.Context, from []*endpoint, do func(*endpoint) error) (busy []*endpoint, failed error) {
	var all []error
	var first, last []*endpoint // at this moment: other layers are fetched concurrently
	for _, e := range from {
		if e.down.Load() {
			last = append(last, e)
		} else {
			first = append(first, e)
		}
	}
	for _, some := range [][]*endpoint{first, last} {
		for _, e := range some {
			err := do(e)
			e.down.Store(errors.Is(err, fault.Unavailable) || errors.Is(err, fault.Invalid))
			if err == nil || ctx.Err() != nil {
				return nil, err
			}
			p.opts.Logger.Info("this place does not serve the image", "image", p.ref.Name(), "place", e.place, "err", err)
			all = append(all, err)
			if isBusy(err) {
				busy = append(busy, e)
			}
		}
		if len(all) > 0 { // all places not known to be down have been tried
			break
		}
	}
	return busy, together(p.ref, all)
}

// together combines the errors of several places. The kind is that of the last one, which
// is the registry itself unless the administrator excluded it.
func together(ref name.Reference, failed []error) error {
	switch len(failed) {
	case 0:
		return fault.FailedPrecondition.Errorf("hosts.toml allows no place to serve images of registry %q: see its capabilities", registryName(ref))
	case 1:
		return failed[0]
	}
	last := failed[len(failed)-1]
	var before []string
	for _, err := range failed[:len(failed)-1] {
		before = append(before, err.Error())
	}
	return fmt.Errorf("%w; before that, %s", last, strings.Join(before, "; "))
}

func canPull(h hosts.Host) bool { return h.Pull }

// canResolve: places that may resolve tags are asked for the manifest, too.
func canResolve(h hosts.Host) bool { return h.Resolve }

// manifest reads the manifest or index that id names, a tag or a digest.
func (p *places) manifest(ctx context.Context, id string) (d document, err error) {
	fits := canResolve
	if _, err := v1.NewHash(id); err == nil {
		fits = canPull
	}
	err = p.try(ctx, fits, func(e *endpoint) (err error) {
		d, err = e.manifest(ctx, id)
		return err
	})
	return d, err
}
