package api_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestDurable has changes, and looks at what a crash would have left of each once
// it was answered. Only a kubelet's own status and signs of life may be missing.
func TestDurable(t *testing.T) {
	const lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
	const started = `{"status":{"phase":"Running","startTime":"2026-01-01T00:00:00Z"}}`
	for name, c := range map[string]struct {
		asKubelet         bool
		path, doc, before string // what there is, and a patch that was made of it before
		patch             string // %d is a number that is another in each attempt
		part              string
		durable           bool
	}{
		"a status":               {true, pods, podDoc, "", `{"status":{"message":"%d"}}`, "/web/status", false},
		"a client's status":      {false, pods, podDoc, "", `{"status":{"message":"%d"}}`, "/web/status", true},
		"a status once admitted": {true, pods, podDoc, started, `{"status":{"message":"%d"}}`, "/web/status", false},
		"admission":              {true, pods, podDoc, "", `{"status":{"startTime":"202%d-01-01T00:00:00Z"}}`, "/web/status", true},
		"the end":                {true, pods, podDoc, started, `{"status":{"phase":"Failed","message":"%d"}}`, "/web/status", true},
		"after the end":          {true, pods, podDoc, `{"status":{"phase":"Failed"}}`, `{"status":{"message":"%d"}}`, "/web/status", false},
		"a label":                {true, pods, podDoc, "", `{"metadata":{"labels":{"a":"%d"}}}`, "/web", true},
		"data":                   {true, configMaps, cmDoc, "", `{"data":{"a":"n%d"}}`, "/cm", true},
		"a lease":                {true, lease, `{"metadata":{"name":"l"},"spec":{"holderIdentity":"me"}}`, "", `{"spec":{"renewTime":"202%d-01-01T00:00:00.000000Z"}}`, "/l", false},
		"a client's lease":       {false, lease, `{"metadata":{"name":"l"},"spec":{"holderIdentity":"me"}}`, "", `{"spec":{"renewTime":"202%d-01-01T00:00:00.000000Z"}}`, "/l", true},
		"a lease changes hands":  {true, lease, `{"metadata":{"name":"l"},"spec":{"holderIdentity":"me"}}`, "", `{"spec":{"holderIdentity":"%d"}}`, "/l", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := serve(t, dir)
			client := map[bool]*http.Client{true: s.kubelet, false: s.client}[c.asKubelet]
			s.make(t, "POST", c.path, c.doc)
			if c.before != "" {
				s.make(t, "PATCH", c.path+c.part, c.before, mergePatch)
			}
			for n := 1; ; n++ {
				a := s.doAs(t, client, "PATCH", c.path+c.part, fmt.Sprintf(c.patch, n), mergePatch)
				left := crashed(t, dir, a)
				a.want(t, 200)
				switch there := left == a.at("metadata.resourceVersion"); {
				case there == c.durable:
					return
				case c.durable:
					t.Fatalf("a crash leaves revision %s of %s", left, a.body)
				case n == 5: // a machine may be so slow that it was written meanwhile
					t.Fatal("it was written each time before it was answered")
				}
			}
		})
	}
}

// crashed returns the revision of the answered object that a crash now would
// leave.
func crashed(t *testing.T, dir string, a *answer) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "objects.db"))
	must(t, err)
	file := filepath.Join(t.TempDir(), "left.db")
	must(t, os.WriteFile(file, data, 0o600))
	left, err := store.Open(file, nil)
	must(t, err)
	defer left.Close()
	for _, k := range object.Kinds() {
		if k.Kind != a.at("kind") {
			continue
		}
		o, err := left.Get(k, a.at("metadata.namespace"), a.at("metadata.name"))
		must(t, err)
		return o.GetResourceVersion()
	}
	t.Fatalf("of no kind: %s", a.body)
	return ""
}
