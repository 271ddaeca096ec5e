package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/kubelet/api"
	"github.com/nodekit-project/nodekit/kubelet/api/identity"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
)

// Kubeconfig returns the path of the kubeconfig of the node with the given run
// directory. It exists once the node has started.
func Kubeconfig(run string) string { return filepath.Join(run, "kubeconfig") }

// kubernetes is the node's own Kubernetes API with the objects behind it.
type kubernetes struct {
	store    *store.Store
	server   *api.Server
	listener net.Listener
	kubelet  *rest.Config // the kubelet's identity
	root     *rest.Config // the identity of users and programs
}

// openAPI opens the node's objects, listens, and writes the kubeconfig. It does not
// serve yet.
func openAPI(cfg *Config) (k *kubernetes, err error) {
	k = &kubernetes{}
	if k.store, err = store.Open(filepath.Join(cfg.Root, "objects.db"), &store.Options{Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	dir := filepath.Join(cfg.Root, "api")
	id, err := identity.Open(dir, cfg.Name)
	if err != nil {
		return nil, err
	}
	if k.listener, err = identity.Listen(dir); err != nil {
		return nil, fmt.Errorf("listening for the Kubernetes API: %w", err)
	}
	return k, k.introduce(cfg, id)
}

// introduce creates the certificates of the server and its clients.
func (k *kubernetes) introduce(cfg *Config, id *identity.Identity) error {
	serverTLS, err := id.ServerTLS()
	if err != nil {
		return err
	}
	address := k.listener.Addr().String()
	if k.kubelet, err = id.Client(address, "system:node:"+cfg.Name, "system:nodes"); err != nil {
		return err
	}
	if k.root, err = id.Client(address, "root", "system:masters"); err != nil {
		return err
	}
	if err := id.Kubeconfig(Kubeconfig(cfg.Run), k.root); err != nil {
		return err
	}
	k.server, err = api.New(api.Config{
		Store: k.store, NodeName: cfg.Name, Kubelet: overSocket(filepath.Join(cfg.Run, "nodekit.sock")), TLS: serverTLS, Logger: cfg.Logger,
	})
	return err
}

// overSocket sends every request to the unix socket.
func overSocket(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
}

func (k *kubernetes) serve(ctx context.Context) error { return k.server.Serve(ctx, k.listener) }

// close closes what openAPI opened. Call it after serve has returned, or without
// calling serve.
func (k *kubernetes) close() error {
	var errs []error
	if k.listener != nil {
		if err := k.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, k.store.Close())...)
}

// RESTConfig returns the client configuration for the node's Kubernetes API, as in the
// kubeconfig.
func (n *Node) RESTConfig() *rest.Config { return rest.CopyConfig(n.api.root) }

// removeKubeconfig removes the kubeconfig of an API that is gone.
func (n *Node) removeKubeconfig(context.Context) error {
	if err := os.Remove(Kubeconfig(n.cfg.Run)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
