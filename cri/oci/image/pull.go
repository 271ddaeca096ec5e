package image

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/cri/oci/image/registry"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Progress is how far the download of one layer is.
type Progress = registry.Progress

// PullOptions configure one pull. nil means the defaults.
type PullOptions struct {
	// Auth are the credentials to use. nil, or an empty one, means those of the
	// user's docker configuration (~/.docker/config.json and its helpers).
	Auth *runtimeapi.AuthConfig
	// PlainHTTP allows access without TLS to registries on other machines. The network
	// can then see and change what is pulled.
	PlainHTTP bool
	// Progress is called with the progress of each layer that is fetched. It is called by
	// one goroutine at a time, must neither block nor call the store, and is never called
	// after Pull has returned. nil means that progress is not reported.
	Progress func(Progress)
}

// Pull fetches the image that ref names from its registry and returns its ID. Of a
// multi-platform image, the one for linux and this machine's architecture is fetched.
// What is already in the store is not fetched again, and a partially downloaded layer of
// an earlier pull, even by a process that was killed, is continued. Concurrent pulls of
// one reference with the same credentials do the work once, as long as one of them waits
// for it. Registries on this machine are tried with https and plain http.
//
// The kinds of its errors are those of registry.Resolve.
func (s *Store) Pull(ctx context.Context, ref string, opts *PullOptions) (id string, err error) {
	if opts == nil {
		opts = &PullOptions{}
	}
	full, err := content.Normalize(ref)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("%s %s %v", full, registry.AuthKey(opts.Auth), opts.PlainHTTP)
	id, err = s.pulls.do(ctx, key, opts.Progress, func(ctx context.Context, report func(Progress)) (id string, err error) {
		err = s.ingesting(ctx, func() error {
			im, err := registry.Resolve(ctx, ref, &registry.Options{
				Auth: opts.Auth, PlainHTTP: opts.PlainHTTP, Progress: report,
				Hosts: s.from.hosts, Stall: s.from.stall, Logger: s.log,
			})
			if err == nil {
				id, err = s.add(ctx, im)
			}
			return err
		})
		return id, err
	})
	if err != nil {
		return "", fmt.Errorf("pulling image %q: %w", ref, s.explainDisk(err))
	}
	return id, nil
}

// pullCRI is Pull for the CRI.
func (s *Store) pullCRI(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	opts := &PullOptions{Auth: auth}
	if s.progress != nil {
		opts.Progress = func(p Progress) { s.progress(ref, p) }
	}
	id, err := s.Pull(ctx, ref, opts)
	if errors.Is(err, fault.Unavailable) {
		return "", registryUnavailable{err}
	}
	return id, err
}

// registryUnavailable is the error by which a kubelet recognizes that the registry is at
// fault: its text begins with the name in cri-api's pkg/errors, and its code is Unknown,
// the only one that kubelets strip before they compare.
type registryUnavailable struct{ error }

func (e registryUnavailable) Error() string {
	return crierrors.ErrRegistryUnavailable.Error() + ": " + e.error.Error()
}

// Unwrap returns the error of Pull.
func (e registryUnavailable) Unwrap() error { return e.error }

// GRPCStatus returns the gRPC status of the error.
func (e registryUnavailable) GRPCStatus() *status.Status { return status.New(codes.Unknown, e.Error()) }
