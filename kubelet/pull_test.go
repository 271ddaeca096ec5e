package kubelet_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// pullSecret is a Secret in the shape that kubectl create secret docker-registry
// writes.
func pullSecret(namespace, name, registry, password string) string {
	auth := base64.StdEncoding.EncodeToString([]byte("me:" + password))
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, registry, auth)
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {namespace: %s, name: %s}\ntype: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: %s}\n",
		namespace, name, base64.StdEncoding.EncodeToString([]byte(config)))
}

// events returns the messages of the events with the reason.
func (b *bench) events(reason string) (messages []string) {
	kind, err := object.KindOf(&v1.Event{})
	if err != nil {
		b.t.Fatal(err)
	}
	list, _ := b.api.store.List(kind, "")
	for _, o := range list {
		if e := o.(*v1.Event); e.Reason == reason {
			messages = append(messages, e.Type+" "+e.Message)
		}
	}
	return messages
}

// TestPullSecrets: an image is pulled with the Secrets that the Pod names in its own
// namespace. Those that cannot be used are told of and do not matter as long as
// another will do; the last comes late, and is used at once.
func TestPullSecrets(t *testing.T) {
	b := newBench(t)
	b.fake.password = "hunter2"
	b.start()
	b.write("secrets.yaml", strings.Join([]string{
		pullSecret("other", "login", "nodekit.test", "hunter2"), // of another namespace
		pullSecret("default", "elsewhere", "example.com", "hunter2"),
		pullSecret("default", "wrong", "nodekit.test/private", "guess"),
		"apiVersion: v1\nkind: Secret\nmetadata: {name: opaque}\nstringData: {.dockerconfigjson: hunter2}\n",
	}, "---\n"))
	b.write("p.yaml", manifest("p", `
  imagePullSecrets: [{name: opaque}, {name: elsewhere}, {name: login}, {name: wrong}]
  containers: [{name: c, image: 'nodekit.test/private/app:1', command: [run]}]
`))
	b.until("p", "waiting for its image", func(p *v1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			// The second where a Secret is told of after the first try.
			slices.Contains([]string{"ErrImagePull", "ImagePullBackOff"}, p.Status.ContainerStatuses[0].State.Waiting.Reason)
	})
	begun := time.Now()
	b.write("login.yaml", pullSecret("default", "login", "*.test", "hunter2"))
	b.until("p", "Ready", ready)
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("the Secret was used after %s, want at once", took)
	}
	b.fake.mu.Lock()
	pulls := slices.Clone(b.fake.pulls)
	b.fake.mu.Unlock()
	if n := len(pulls); n < 3 || !slices.Equal(pulls[n-2:], []string{"guess", "hunter2"}) || slices.Contains(pulls[:n-1], "hunter2") {
		t.Errorf("pulls had the passwords %q, want guess, and in the end guess and hunter2", pulls)
	}
	var told []string
	for deadline := time.Now().Add(5 * time.Second); len(told) == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		told = b.events("FailedToRetrieveImagePullSecret")
	}
	text := strings.Join(told, "\n")
	for _, want := range []string{"Warning", `Secret "opaque" cannot be used: its type is "Opaque"`, `Secret "login" is not there`} {
		if !strings.Contains(text, want) {
			t.Errorf("the events say %q, want %q", told, want)
		}
	}
	if strings.Contains(text, "elsewhere") || strings.Contains(text, "hunter2") || strings.Contains(text, "guess") {
		t.Errorf("the events say %q", told)
	}
	b.drain()
}
