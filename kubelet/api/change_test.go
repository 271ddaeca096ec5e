package api_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestUpdate(t *testing.T) {
	for name, c := range map[string]struct {
		path, doc, change string // the document that is stored, and a merge patch of what is sent back
		code              int
		want              []string
		changed           bool
	}{
		"data":            {configMaps + "/cm", cmDoc, `{"data":{"a":"2"}}`, 200, []string{"data.a==2"}, true},
		"nothing":         {configMaps + "/cm", cmDoc, `{}`, 200, []string{"data.a==1"}, false},
		"unconditionally": {configMaps + "/cm", cmDoc, `{"metadata":{"resourceVersion":null,"uid":null},"data":{"a":"2"}}`, 200, []string{"data.a==2"}, true},
		"stale":           {configMaps + "/cm", cmDoc, `{"metadata":{"resourceVersion":"1"},"data":{"a":"2"}}`, 409, []string{"reason==Conflict", "details.name==cm"}, false},
		"another uid":     {configMaps + "/cm", cmDoc, `{"metadata":{"uid":"other"},"data":{"a":"2"}}`, 409, []string{"reason==Conflict", "other"}, false},
		"another name":    {configMaps + "/cm", cmDoc, `{"metadata":{"name":"other"}}`, 400, []string{"name of the object (other)"}, false},
		"another place":   {configMaps + "/cm", cmDoc, `{"metadata":{"namespace":"other"}}`, 400, []string{"namespace of the object (other)"}, false},
		"creation time":   {configMaps + "/cm", cmDoc, `{"metadata":{"creationTimestamp":"2001-01-01T00:00:00Z","generation":9}}`, 200, []string{"metadata.generation==1"}, false},
		"immutable data":  {configMaps + "/cm", with(cmDoc, `{"immutable":true}`), `{"data":{"a":"2"}}`, 422, []string{"data"}, false},
		"image":           {pods + "/web", podDoc, `{"spec":{"containers":[{"name":"c","image":"other"}]}}`, 200, []string{"metadata.generation==2", "spec.containers.0.image==other"}, true},
		"labels":          {pods + "/web", podDoc, `{"metadata":{"labels":{"a":"b"}}}`, 200, []string{"metadata.generation==1", "metadata.labels.a==b"}, true},
		"command":         {pods + "/web", podDoc, `{"spec":{"containers":[{"name":"c","image":"busybox","command":["x"]}]}}`, 422, []string{"only image"}, false},
		"without node":    {pods + "/web", podDoc, `{"spec":{"nodeName":null}}`, 200, []string{"spec.nodeName==node"}, false},
		"another node":    {pods + "/web", podDoc, `{"spec":{"nodeName":"x"}}`, 422, nil, false},
		"status by main":  {pods + "/web", podDoc, `{"status":{"phase":"Running"}}`, 200, []string{"status.phase==Pending"}, false},
		"by status":       {pods + "/web/status", podDoc, `{"status":{"phase":"Running"},"spec":{"hostPID":true}}`, 200, []string{"status.phase==Running", "spec.hostPID==", "metadata.generation==1"}, true},
		"a bad owner":     {configMaps + "/cm", cmDoc, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n"}]}}`, 422, []string{"metadata.ownerReferences[0].uid"}, false},
		"bad, by status":  {pods + "/web/status", podDoc, `{"metadata":{"finalizers":["a b"]}}`, 422, []string{"metadata.finalizers"}, false},
		"owner by status": {pods + "/web/status", podDoc, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}}`, 200, nil, false},
		"ephemeral": {
			pods + "/web/ephemeralcontainers", podDoc, `{"spec":{"hostPID":true,"ephemeralContainers":[{"name":"d","image":"x"}]}}`, 200,
			[]string{"spec.ephemeralContainers.0.name==d", "spec.hostPID==", "metadata.generation==2"},
			true,
		},
		"ephemeral by main": {pods + "/web", podDoc, `{"spec":{"ephemeralContainers":[{"name":"d","image":"x"}]}}`, 422, nil, false},
		"resize": {
			pods + "/web/resize", with(podDoc, `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`),
			`{"spec":{"containers":[{"name":"c","image":"other","resources":{"requests":{"cpu":"2"}}}]}}`, 200,
			[]string{"spec.containers.0.resources.requests.cpu==2", "spec.containers.0.image==x"},
			true,
		},
		"resize by name": {
			pods + "/web/resize", with(podDoc, `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}},{"name":"d","image":"x"}]}}`),
			`{"spec":{"containers":[{"name":"d","image":"x","resources":{"requests":{"cpu":"3"}}},{"name":"c","image":"x","resources":{"requests":{"cpu":"2"}}}]}}`, 200,
			[]string{"spec.containers.0.name==c", "spec.containers.0.resources.requests.cpu==2", "spec.containers.1.resources.requests.cpu==3"},
			true,
		},
		"resize of nobody": {
			pods + "/web/resize", podDoc, `{"spec":{"containers":[{"name":"c","image":"busybox"},{"name":"d","image":"x"}]}}`, 422,
			[]string{"only the resources"},
			false,
		},
		"resize of the Pod": {
			pods + "/web/resize", with(podDoc, `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`),
			`{"spec":{"resources":{"requests":{"cpu":"2"}}}}`, 422,
			[]string{"spec.resources", "delete the Pod"},
			false,
		},
		"resize of class": {pods + "/web/resize", podDoc, `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"2"}}}]}}`, 422, []string{"Burstable", "BestEffort"}, false},
		"no subresource":  {pods + "/web/wonder", podDoc, `{}`, 404, []string{"no such subresource"}, false},
		"no status":       {configMaps + "/cm/status", cmDoc, `{}`, 404, nil, false},
		"not there":       {configMaps + "/other", cmDoc, `{"metadata":{"name":"other"}}`, 404, []string{"reason==NotFound", "details.name==other", "details.kind==configmaps"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.TempDir())
			collection := configMaps
			if strings.HasPrefix(c.path, pods) {
				collection = pods
			}
			stored := s.make(t, "POST", collection, c.doc)
			before := s.store.Revision()
			a := s.do(t, "PUT", c.path, with(stored.body, c.change))
			a.want(t, c.code, c.want...)
			if changed := s.store.Revision() != before; changed != c.changed {
				t.Errorf("changed: %v, want %v: %s", changed, c.changed, a.body)
			}
			if a.code == 200 && (a.at("metadata.uid") != stored.at("metadata.uid") || a.at("metadata.creationTimestamp") != stored.at("metadata.creationTimestamp")) {
				t.Errorf("identity changed: %s", a.body)
			}
		})
	}
}

func TestPatch(t *testing.T) {
	pod := with(podDoc, `{"metadata":{"labels":{"a":"b"}},"spec":{"tolerations":[{"key":"k","operator":"Exists"}],
		"containers":[{"name":"c","image":"x","env":[{"name":"A","value":"1"},{"name":"B","value":"2"}]},{"name":"d","image":"y"}]}}`)
	for name, c := range map[string]struct {
		kind, patch string
		code        int
		want        []string
		changed     bool
	}{
		"JSON":              {jsonPatch, `[{"op":"replace","path":"/metadata/labels/a","value":"c"}]`, 200, []string{"metadata.labels.a==c"}, true},
		"JSON test":         {jsonPatch, `[{"op":"test","path":"/metadata/labels/a","value":"z"}]`, 422, []string{"test"}, false},
		"JSON no path":      {jsonPatch, `[{"op":"remove","path":"/metadata/labels/z"}]`, 422, nil, false},
		"JSON garbage":      {jsonPatch, `{`, 400, nil, false},
		"JSON no operation": {jsonPatch, `[{"op":"wonder","path":"/a"}]`, 422, nil, false},
		"merge":             {mergePatch, `{"metadata":{"labels":{"a":null,"n":"m"}}}`, 200, []string{`metadata.labels=={"n":"m"}`}, true},
		"merge of nothing":  {mergePatch, `{}`, 200, nil, false},
		"merge garbage":     {mergePatch, `{`, 422, nil, false},
		"merge null":        {mergePatch, `null`, 422, nil, false},
		"merge of name":     {mergePatch, `{"metadata":{"name":"other"}}`, 400, nil, false},
		"merge of kind":     {mergePatch, `{"kind":"Secret"}`, 400, []string{"Secret"}, false},
		"merge stale":       {mergePatch, `{"metadata":{"resourceVersion":"1"}}`, 409, []string{"reason==Conflict"}, false},
		"merge unknown":     {mergePatch, `{"wonder":1}`, 200, nil, false},
		"strategic by key": {
			strategicPatch, `{"spec":{"containers":[{"name":"d","image":"z"}]}}`, 200,
			[]string{"spec.containers.0.image==x", "spec.containers.1.image==z"},
			true,
		},
		"strategic deletion": {strategicPatch, `{"metadata":{"labels":{"$patch":"delete"}}}`, 200, []string{"metadata.labels=="}, true},
		"strategic refused":  {strategicPatch, `{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}`, 422, []string{"only image"}, false},
		"strategic no key":   {strategicPatch, `{"spec":{"containers":[{"image":"z"}]}}`, 422, []string{"merge key"}, false},
		"strategic garbage":  {strategicPatch, `[1]`, 422, nil, false},
		"no such patch":      {"Content-Type: application/json", `{}`, 415, []string{"application/merge-patch+json"}, false},
		"of a wrong type":    {mergePatch, `{"spec":{"containers":{"a":"b"}}}`, 400, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.TempDir())
			s.make(t, "POST", pods, pod)
			before := s.store.Revision()
			s.do(t, "PATCH", pods+"/web", c.patch, c.kind).want(t, c.code, c.want...)
			if changed := s.store.Revision() != before; changed != c.changed {
				t.Errorf("changed: %v, want %v", changed, c.changed)
			}
			s.do(t, "PATCH", pods+"/other", c.patch, c.kind).want(t, map[bool]int{true: c.code, false: 404}[c.code == 415 || name == "JSON garbage"])
		})
	}
}

// TestPatchesAtOnce has patches of one object that change each other's ground.
func TestPatchesAtOnce(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", configMaps, cmDoc)
	done := make(chan int)
	const n = 20
	for i := range n {
		go func() {
			done <- s.do(t, "PATCH", configMaps+"/cm", fmt.Sprintf(`{"data":{"k%d":"v"}}`, i), mergePatch).code
		}()
	}
	for range n {
		if code := <-done; code != 200 {
			t.Errorf("got %d", code)
		}
	}
	if got := strings.Count(s.do(t, "GET", configMaps+"/cm", "").body, `"v"`); got != n {
		t.Errorf("%d of %d patches are there", got, n)
	}
}

// TestDryRun has requests that change something, and then nothing.
func TestDryRun(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	s.make(t, "POST", configMaps, cmDoc)
	s.make(t, "POST", namespaces, `{"metadata":{"name":"own"}}`)
	before, all := s.store.Revision(), s.do(t, "GET", configMaps, "").body+s.do(t, "GET", pods, "").body+s.do(t, "GET", namespaces, "").body
	for name, c := range map[string]struct {
		method, path, body string
		header             string
		code               int
		want               string
	}{
		"create":            {"POST", configMaps + "?dryRun=All", with(cmDoc, `{"metadata":{"name":"new"}}`), "", 201, "metadata.name==new"},
		"create elsewhere":  {"POST", "/api/v1/namespaces/new/configmaps?dryRun=All", cmDoc, "", 201, "metadata.namespace==new"},
		"update":            {"PUT", configMaps + "/cm?dryRun=All", with(cmDoc, `{"data":{"a":"2"}}`), "", 200, "data.a==2"},
		"JSON patch":        {"PATCH", configMaps + "/cm?dryRun=All", `[{"op":"replace","path":"/data/a","value":"2"}]`, jsonPatch, 200, "data.a==2"},
		"merge patch":       {"PATCH", configMaps + "/cm?dryRun=All", `{"data":{"a":"2"}}`, mergePatch, 200, "data.a==2"},
		"strategic patch":   {"PATCH", configMaps + "/cm?dryRun=All", `{"data":{"a":"2"}}`, strategicPatch, 200, "data.a==2"},
		"apply":             {"PATCH", configMaps + "/cm?dryRun=All&fieldManager=m&force=true", with(cmDoc, `{"data":{"a":"2"}}`), applyPatch, 200, "data.a==2"},
		"apply new":         {"PATCH", configMaps + "/new?dryRun=All&fieldManager=m", with(cmDoc, `{"metadata":{"name":"new"}}`), applyPatch, 201, "metadata.name==new"},
		"status":            {"PATCH", pods + "/web/status?dryRun=All", `{"status":{"phase":"Running"}}`, mergePatch, 200, "status.phase==Running"},
		"delete":            {"DELETE", configMaps + "/cm?dryRun=All", "", "", 200, "status==Success"},
		"delete by body":    {"DELETE", configMaps + "/cm", `{"dryRun":["All"]}`, "", 200, "status==Success"},
		"delete a pod":      {"DELETE", pods + "/web?dryRun=All", "", "", 200, "metadata.name==web"},
		"evict":             {"POST", pods + "/web/eviction", `{"deleteOptions":{"dryRun":["All"]}}`, "", 201, "status==Success"},
		"evict by query":    {"POST", pods + "/web/eviction?dryRun=All", `{}`, "", 201, "status==Success"},
		"delete collection": {"DELETE", configMaps + "?dryRun=All", "", "", 200, "status==Success"},
		"delete namespace":  {"DELETE", namespaces + "/own?dryRun=All", "", "", 202, "status.phase==Terminating"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if c.header != "" {
				headers = []string{c.header}
			}
			s.do(t, c.method, c.path, c.body, headers...).want(t, c.code, c.want)
			if s.store.Revision() != before {
				t.Fatal("something was stored")
			}
		})
	}
	if now := s.do(t, "GET", configMaps, "").body + s.do(t, "GET", pods, "").body + s.do(t, "GET", namespaces, "").body; now != all {
		t.Errorf("was %s\nis %s", all, now)
	}
}
