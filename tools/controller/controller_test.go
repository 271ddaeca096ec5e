package controller_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/nodetest"
)

// watched is the label of the Pods that the controller is for.
const watched = "example.com/watched"

// reconciler keeps a ConfigMap with the phase of each Pod that has the label.
type reconciler struct{ client.Client }

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var p v1.Pod
	if err := r.Get(ctx, request.NamespacedName, &p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if p.Labels[watched] == "" || p.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	c := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, c, func() error {
		c.Data = map[string]string{"phase": string(p.Status.Phase)}
		return controllerutil.SetControllerReference(&p, c, r.Scheme())
	})
	return ctrl.Result{}, err
}

// manage runs a manager with the reconciler until the test ends.
func manage(t *testing.T, n *nodetest.Node) {
	t.Helper()
	twice := true // with -count=2 there is a second one of the name
	m, err := ctrl.NewManager(n.RESTConfig(), ctrl.Options{
		Logger: testr.New(t), Metrics: server.Options{BindAddress: "0"}, LeaderElection: true, LeaderElectionID: "controller", LeaderElectionNamespace: v1.NamespaceDefault,
		Controller: config.Controller{SkipNameValidation: &twice},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ctrl.NewControllerManagedBy(m).For(&v1.Pod{}).Owns(&v1.ConfigMap{}).Complete(&reconciler{m.GetClient()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended: %v", err)
		}
	})
}

const pods = `apiVersion: v1
kind: Pod
metadata: {name: watched, labels: {example.com/watched: "yes"}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "nodekit.dev/podtool:v1", args: [sleep, forever]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "nodekit.dev/podtool:v1", args: [sleep, forever]}]
`

// phase waits until the ConfigMap of the Pod says the phase, "" that there is none.
func phase(t *testing.T, c client.Client, pod, want string) {
	t.Helper()
	var last any
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var m v1.ConfigMap
		err := c.Get(t.Context(), client.ObjectKey{Namespace: v1.NamespaceDefault, Name: pod}, &m)
		if err == nil && m.Data["phase"] == want || apierrors.IsNotFound(err) && want == "" {
			return
		}
		last = []any{m.Data, err}
	}
	t.Fatalf("the ConfigMap of Pod %s does not say %q: %v", pod, want, last)
}

// TestManagerReconcilesPods runs a manager with leader election, cache, owned
// objects and the collection of what lost its owner; also over a restart of the
// node, and after somebody else took away what it made.
func TestManagerReconcilesPods(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	n := nodetest.Start(t, &node.Config{Images: []string{nodetest.Image(t, "github.com/nodekit-project/nodekit/cmd/podtool", "nodekit.dev/podtool:v1")}})
	manage(t, n)
	c, err := client.New(n.RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.Apply(pods)
	n.WaitReady("other")
	phase(t, c, "watched", "Running")
	phase(t, c, "other", "")
	if err := c.Delete(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceDefault, Name: "watched"}}); err != nil {
		t.Fatal(err)
	}
	phase(t, c, "watched", "Running")
	n.Restart()
	if err := c.Patch(t.Context(), n.WaitReady("other"), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"example.com/watched":"now"}}}`))); err != nil {
		t.Fatal(err)
	}
	phase(t, c, "other", "Running")
	for _, name := range []string{"watched", "other"} {
		if err := c.Delete(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceDefault, Name: name}}); err != nil {
			t.Fatal(err)
		}
		phase(t, c, name, "")
	}
}
