package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Run creates the objects and returns their Pods, in order, once all of them have
// ended. A Pod that always restarts never does. Run returns earlier, with an error, if
// ctx ends or the node fails. It does not remove the Pods.
func (n *Node) Run(ctx context.Context, objects []manifest.Object) ([]*v1.Pod, error) {
	pods, err := n.Create(ctx, objects)
	if err != nil {
		return nil, err
	}
	for i := range pods {
		if pods[i], err = n.Wait(ctx, types.NamespacedName{Namespace: pods[i].Namespace, Name: pods[i].Name}, ended); err != nil {
			return nil, err
		}
	}
	return pods, nil
}

// Apply creates the objects of a manifest, YAML or JSON, and returns its Pods. If the
// manifest is rejected, nothing is created.
func (n *Node) Apply(ctx context.Context, text []byte) ([]*v1.Pod, error) {
	objects, notices, err := manifest.Decode(text)
	if err != nil {
		return nil, err
	}
	for _, notice := range notices {
		n.cfg.Logger.Warn(notice.String())
	}
	return n.Create(ctx, objects)
}

// Create stores the objects, Pods last, so that what a Pod refers to exists when it
// starts. It returns the Pods.
func (n *Node) Create(ctx context.Context, objects []manifest.Object) ([]*v1.Pod, error) {
	var pods []*v1.Pod
	for _, o := range objects {
		if p, ok := o.(*v1.Pod); ok {
			pods = append(pods, p)
			continue
		}
		if err := n.Client().Create(ctx, o); err != nil {
			return nil, fmt.Errorf("creating %q: %w", o.GetName(), err)
		}
	}
	for _, p := range pods {
		if err := n.Client().Create(ctx, p); err != nil {
			return nil, fmt.Errorf("creating Pod %q: %w", p.Name, err)
		}
	}
	return pods, nil
}

func ended(p *v1.Pod) bool {
	return pod.Terminal(p.Status.Phase)
}

// Ready reports whether the Pod's Ready condition is true.
func Ready(p *v1.Pod) bool { return pod.Ready(&p.Status) }

// Wait returns the Pod as soon as wanted holds for it, at once if it already does. It
// waits for a Pod that does not exist yet; if the Pod is deleted meanwhile, the error
// is fault.NotFound. It returns early when ctx ends or the node does.
func (n *Node) Wait(ctx context.Context, name types.NamespacedName, wanted func(*v1.Pod) bool) (*v1.Pod, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type seen struct {
		pod  *v1.Pod
		gone bool
	}
	found := make(chan seen)
	tell := func(o object.Object, gone bool) {
		p := o.(*v1.Pod)
		if p.Namespace != name.Namespace || p.Name != name.Name || !gone && !wanted(p) {
			return
		}
		select {
		case found <- seen{p, gone}:
		case <-ctx.Done():
		}
	}
	followed := make(chan error, 1)
	go func() {
		followed <- n.Client().Follow(ctx, &v1.Pod{}, "metadata.name="+name.Name, client.Handler{
			Changed: func(o object.Object) { tell(o, false) }, Gone: func(o object.Object) { tell(o, true) }, Synced: func() {},
		})
	}()
	select {
	case <-n.stopped:
		return nil, errors.Join(fmt.Errorf("waiting for Pod %q: the node ended", name), n.Err())
	case err := <-followed:
		return nil, fmt.Errorf("waiting for Pod %q: %w", name, cmp.Or(err, context.Cause(ctx)))
	case s := <-found:
		if s.gone {
			return nil, fault.NotFound.Errorf("waiting for Pod %q: it was deleted", name)
		}
		return s.pod, nil
	}
}

// Logs copies the container's output, past and future, to w until the container ends.
// It uses the kubelet's HTTP API, as an API server does for kubectl.
func (n *Node) Logs(ctx context.Context, p call.Pod, container string, w io.Writer) error {
	socket := filepath.Join(n.cfg.Run, "nodekit.sock")
	transport := overSocket(socket)
	defer transport.CloseIdleConnections()
	u := url.URL{Scheme: "http", Host: "node", RawQuery: "follow=true"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("containerLogs", p.Namespace, p.Name, container).String(), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("reading the log of %q: %s: %s", container, answer.Status, text)
	}
	_, err = io.Copy(w, answer.Body)
	return err
}

// String describes the node in one line, for users.
func (n *Node) String() string {
	if n.runtime == nil {
		return fmt.Sprintf("%s, runtime at %s, control group %s", n.cfg.Name, n.criEndpoint(), cgroupParent(n.cfg.Root))
	}
	if n.cfg.CNIConfDir != "" {
		return fmt.Sprintf("%s, %s, networks of %s", n.cfg.Name, n.runtime.engines(), n.cfg.CNIConfDir)
	}
	return fmt.Sprintf("%s, %s, %s", n.cfg.Name, n.runtime.engines(), n.runtime.cfg.network())
}
