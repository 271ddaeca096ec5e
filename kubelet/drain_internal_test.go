package kubelet

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/kubelet/client"
)

// TestPodsOfOtherNodes has an API with Pods of two nodes: the kubelet knows and
// ends those of its own only.
func TestPodsOfOtherNodes(t *testing.T) {
	ended := make(chan string, 2)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var body any = &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess}
		if r.Method == http.MethodDelete {
			ended <- r.URL.Path
		} else {
			wanted, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
			if err != nil {
				t.Error(err)
			}
			list := &v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
			for _, name := range []string{"node", "other"} {
				if wanted.Matches(fields.Set{"spec.nodeName": name}) {
					p := v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "on-" + name}}
					p.Spec.NodeName = name
					list.Items = append(list.Items, p)
				}
			}
			body = list
		}
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(api.Close)
	c, err := client.New(&rest.Config{Host: api.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	k := &Kubelet{client: c, config: Config{NodeName: "node", Logger: slog.New(slog.DiscardHandler)}}
	pods, err := k.listPods(t.Context())
	if err != nil || len(pods) != 1 || pods[0].Name != "on-node" {
		t.Errorf("the node's Pods are %v, %v", pods, err)
	}
	if left, err := k.endAll(t.Context(), nil); podNames(left) != "Pod ns/on-node" || err != nil {
		t.Errorf("what is left is %q, %v", podNames(left), err)
	}
	close(ended)
	deleted := slices.Collect(func(yield func(string) bool) {
		for path := range ended {
			if !yield(path) {
				return
			}
		}
	})
	if want := []string{"/api/v1/namespaces/ns/pods/on-node"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted %v", deleted)
	}
}
