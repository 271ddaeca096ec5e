package api_test

import (
	"strings"
	"testing"
)

func TestCreate(t *testing.T) {
	for name, c := range map[string]struct {
		path, body string
		code       int
		want       []string
		warning    string
	}{
		"defaults": {pods, podDoc, 201, []string{
			"spec.nodeName==node", "spec.restartPolicy==Always", "spec.containers.0.imagePullPolicy==Always", "metadata.namespace==default",
			"spec.terminationGracePeriodSeconds==30", "status.phase==Pending", "status.qosClass==BestEffort", "metadata.generation==1",
		}, ""},
		"status is dropped": {pods, with(podDoc, `{"status":{"phase":"Running","message":"mine"}}`), 201, []string{"status.phase==Pending", "status.message=="}, ""},
		"what a server sets is dropped": {
			pods, with(podDoc, `{"metadata":{"uid":"mine","generation":7,"creationTimestamp":"2001-01-01T00:00:00Z",
			"deletionTimestamp":"2001-01-01T00:00:00Z","managedFields":[{"manager":"x"}]}}`), 201,
			[]string{"metadata.generation==1", "metadata.deletionTimestamp==", "metadata.managedFields=="},
			"",
		},
		"this node":             {pods, with(podDoc, `{"spec":{"nodeName":"node"}}`), 201, []string{"spec.nodeName==node"}, ""},
		"another node":          {pods, with(podDoc, `{"spec":{"nodeName":"other"}}`), 422, []string{"reason==Invalid", `this is node \"node\"`, "details.kind==Pod", "details.name==web"}, ""},
		"a new namespace":       {"/api/v1/namespaces/new/pods", podDoc, 201, []string{"metadata.namespace==new"}, ""},
		"another namespace":     {pods, with(podDoc, `{"metadata":{"namespace":"other"}}`), 400, []string{"namespace of the object (other)"}, ""},
		"no namespace":          {"/api/v1/pods", podDoc, 400, []string{"namespace"}, ""},
		"resourceVersion":       {pods, with(podDoc, `{"metadata":{"resourceVersion":"5"}}`), 400, []string{"resourceVersion should not be set"}, ""},
		"no name":               {pods, with(podDoc, `{"metadata":{"name":null}}`), 422, []string{"metadata.name"}, ""},
		"a bad name":            {pods, with(podDoc, `{"metadata":{"name":"A/b"}}`), 422, []string{"metadata.name"}, ""},
		"a bad label":           {configMaps, with(cmDoc, `{"metadata":{"labels":{"a":"b c"}}}`), 422, []string{"metadata.labels"}, ""},
		"a bad annotation":      {configMaps, with(cmDoc, `{"metadata":{"annotations":{"a b":"x"}}}`), 422, []string{"metadata.annotations"}, ""},
		"an owner without uid":  {configMaps, with(cmDoc, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p"}]}}`), 422, []string{"metadata.ownerReferences[0].uid"}, ""},
		"an owner without more": {configMaps, with(cmDoc, `{"metadata":{"ownerReferences":[{"uid":"u"}]}}`), 422, []string{"[0].apiVersion", "[0].kind", "[0].name"}, ""},
		"two controllers": {configMaps, with(cmDoc, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u","controller":true},
			{"apiVersion":"v1","kind":"Pod","name":"q","uid":"v","controller":true}]}}`), 422, []string{"Only one reference"}, ""},
		"a bad finalizer":    {configMaps, with(cmDoc, `{"metadata":{"finalizers":["a b"]}}`), 422, []string{"metadata.finalizers"}, ""},
		"both finalizers":    {configMaps, with(cmDoc, `{"metadata":{"finalizers":["orphan","foregroundDeletion"]}}`), 422, []string{"metadata.finalizers"}, ""},
		"a bad key":          {configMaps, with(cmDoc, `{"data":{"../x":"1"}}`), 422, []string{"data[../x]"}, ""},
		"a bad secret key":   {secrets, `{"metadata":{"name":"s"},"stringData":{"a/b":"1"}}`, 422, []string{"data[a/b]"}, ""},
		"a bad namespace":    {"/api/v1/namespaces/a.b/configmaps", cmDoc, 422, []string{"metadata.namespace"}, ""},
		"a refused field":    {pods, with(podDoc, `{"spec":{"resourceClaims":[{"name":"x"}]}}`), 422, []string{"spec.resourceClaims", "reason==Invalid"}, ""},
		"ephemeral":          {pods, with(podDoc, `{"spec":{"ephemeralContainers":[{"name":"d","image":"x"}]}}`), 422, []string{"spec.ephemeralContainers"}, ""},
		"a harmless field":   {pods, with(podDoc, `{"spec":{"priorityClassName":"high"}}`), 201, nil, "spec.priorityClassName has no effect"},
		"another kind":       {pods, cmDoc, 400, []string{"ConfigMap"}, ""},
		"without a kind":     {configMaps, with(cmDoc, `{"kind":null,"apiVersion":null}`), 201, []string{"kind==ConfigMap", "apiVersion==v1"}, ""},
		"no JSON":            {pods, `{"metadata":`, 400, []string{"decoding the request"}, ""},
		"nothing":            {pods, "", 400, nil, ""},
		"a list":             {pods, `[]`, 400, nil, ""},
		"a wrong type":       {pods, `{"metadata":{"name":5}}`, 400, []string{"metadata.name"}, ""},
		"stringData":         {secrets, `{"metadata":{"name":"s"},"stringData":{"k":"v"}}`, 201, []string{"data.k==dg==", "stringData==", "type==Opaque"}, ""},
		"a namespace":        {namespaces, `{"metadata":{"name":"own"}}`, 201, []string{"status.phase==Active", `spec.finalizers==["kubernetes"]`}, ""},
		"a namespaced node":  {"/api/v1/namespaces/default/nodes", `{"metadata":{"name":"node"}}`, 400, nil, ""},
		"an unknown kind":    {"/api/v1/namespaces/default/wonders", "{}", 404, []string{"a node keeps no wonders"}, ""},
		"an unknown group":   {"/apis/example.com/v1/wonders", "{}", 404, nil, ""},
		"a Deployment":       {"/apis/apps/v1/namespaces/default/deployments", "{}", 405, []string{"write its Pod template as a Pod"}, ""},
		"a Service":          {"/api/v1/namespaces/default/services", "{}", 405, []string{"hostPort"}, ""},
		"a bad dryRun":       {pods + "?dryRun=Some", podDoc, 400, []string{"dryRun"}, ""},
		"a bad validation":   {pods + "?fieldValidation=Perhaps", podDoc, 400, []string{"fieldValidation"}, ""},
		"an object for POST": {pods + "/web", podDoc, 405, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.TempDir())
			a := s.do(t, "POST", c.path, c.body)
			a.want(t, c.code, c.want...)
			if got := a.header.Get("Warning"); !strings.Contains(got, c.warning) || c.warning == "" && got != "" {
				t.Errorf("warning %q, want %q", got, c.warning)
			}
			if a.at("metadata.uid") == "mine" || strings.HasPrefix(a.at("metadata.creationTimestamp"), "2001") {
				t.Error("the client set what only the server sets")
			}
			if c.code >= 300 && s.store.Revision() != 0 {
				t.Errorf("something was stored: %s", s.do(t, "GET", namespaces, "").body)
			}
		})
	}
}

func TestCreateTwice(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	s.do(t, "POST", pods, podDoc).want(t, 409, "reason==AlreadyExists", "details.name==web")
	names := map[string]bool{}
	for range 20 {
		a := s.make(t, "POST", pods, with(podDoc, `{"metadata":{"name":null,"generateName":"web-"}}`))
		name := a.at("metadata.name")
		if !strings.HasPrefix(name, "web-") || len(name) != len("web-")+5 || names[name] {
			t.Fatalf("generated name %q", name)
		}
		names[name] = true
	}
}

// TestNamespaceThatEnds has a namespace that is kept by an object with a
// finalizer: it takes nothing new, and goes when that goes.
func TestNamespaceThatEnds(t *testing.T) {
	s := serve(t, t.TempDir())
	at := "/api/v1/namespaces/own/configmaps"
	s.make(t, "POST", namespaces, `{"metadata":{"name":"own"}}`)
	s.make(t, "POST", at, with(cmDoc, `{"metadata":{"finalizers":["example.com/x"]}}`))
	s.make(t, "POST", at, with(cmDoc, `{"metadata":{"name":"other"}}`))
	s.make(t, "POST", "/api/v1/namespaces/own/secrets", `{"metadata":{"name":"s"}}`)
	s.do(t, "DELETE", namespaces+"/own", "").want(t, 202, "status.phase==Terminating")
	s.do(t, "POST", at, with(cmDoc, `{"metadata":{"name":"new"}}`)).want(t, 403, "being terminated", "details.causes.0.reason==NamespaceTerminating")
	eventually(t, "the rest of the namespace goes", func() bool {
		return s.do(t, "GET", at+"/other", "").code == 404 && s.do(t, "GET", "/api/v1/namespaces/own/secrets/s", "").code == 404
	})
	s.do(t, "GET", namespaces+"/own", "").want(t, 200)
	s.do(t, "GET", at+"/cm", "").want(t, 200)
	s.make(t, "PATCH", at+"/cm", `{"metadata":{"finalizers":null}}`, mergePatch)
	eventually(t, "the namespace goes", func() bool { return s.do(t, "GET", namespaces+"/own", "").code == 404 })
	s.make(t, "POST", at, cmDoc)
	s.do(t, "GET", namespaces+"/own", "").want(t, 200, "status.phase==Active")
}

// TestEventMakesNoNamespace has an Event that comes when its namespace is gone.
func TestEventMakesNoNamespace(t *testing.T) {
	s := serve(t, t.TempDir())
	const event = `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"own","name":"p"},"reason":"Killing"}`
	s.make(t, "POST", namespaces, `{"metadata":{"name":"own"}}`)
	s.make(t, "POST", namespaces+"/own/events", event)
	s.make(t, "DELETE", namespaces+"/own", "")
	eventually(t, "the namespace goes", func() bool { return s.do(t, "GET", namespaces+"/own", "").code == 404 })
	s.do(t, "POST", namespaces+"/own/events", event).want(t, 404, "reason==NotFound", "details.kind==namespaces", "details.name==own")
	s.do(t, "GET", namespaces+"/own", "").want(t, 404)
	s.do(t, "POST", namespaces+"/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Node","name":"node"}}`).want(t, 201)
}

// TestPermanentNamespaces has the namespaces that a cluster always has.
func TestPermanentNamespaces(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, name := range []string{"default", "kube-system"} {
		s.make(t, "POST", namespaces+"/"+name+"/configmaps", cmDoc)
		s.do(t, "DELETE", namespaces+"/"+name, "").want(t, 403, "reason==Forbidden", "may not be deleted", "details.name=="+name)
		s.do(t, "GET", namespaces+"/"+name, "").want(t, 200, "status.phase==Active")
	}
}

// TestReplacedNamespaceKeepsItsContent has clients that write a namespace
// without the finalizer that they need not know.
func TestReplacedNamespaceKeepsItsContent(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", "/api/v1/namespaces/own/configmaps", with(cmDoc, `{"metadata":{"finalizers":["example.com/x"]}}`))
	s.make(t, "PUT", namespaces+"/own", `{"metadata":{"name":"own","labels":{"a":"b"}}}`).want(t, 200, `spec.finalizers==["kubernetes"]`, "metadata.labels.a==b")
	s.do(t, "DELETE", namespaces+"/own", "").want(t, 202)
	s.do(t, "GET", namespaces+"/own", "").want(t, 200)
}

func TestFieldValidation(t *testing.T) {
	unknown := with(cmDoc, `{"dta":{"a":"2"}}`)
	twice := strings.Replace(cmDoc, `"a":"1"`, `"a":"1","a":"2"`, 1)
	yaml := "metadata:\n  name: cm\ndata:\n  a: \"1\"\n  a: \"2\"\n"
	s := serve(t, t.TempDir())
	for name, c := range map[string]struct{ body, header, says string }{
		"unknown":       {unknown, "", `unknown field \"dta\" (did you mean \"data\"?)`},
		"twice":         {twice, "", `duplicate field \"data.a\"`},
		"twice in YAML": {yaml, "Content-Type: application/yaml", `key \"a\" already set in map`},
	} {
		var headers []string
		if c.header != "" {
			headers = append(headers, c.header)
		}
		for _, verb := range []string{"POST", "PUT"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				path := configMaps
				if verb == "PUT" {
					s.do(t, "POST", configMaps, cmDoc)
					path += "/cm"
				} else {
					s.do(t, "DELETE", configMaps+"/cm", "")
				}
				s.do(t, verb, path+"?fieldValidation=Strict", c.body, headers...).want(t, 400, "strict decoding error", c.says)
				says := strings.NewReplacer(`\"`, `"`).Replace(c.says)
				warn := s.do(t, verb, path+"?dryRun=All", c.body, headers...)
				if got := strings.ReplaceAll(strings.Join(warn.header.Values("Warning"), " "), `\"`, `"`); warn.code >= 300 || !strings.Contains(got, says) {
					t.Errorf("warn: %d %s, warning %q", warn.code, warn.body, got)
				}
				ignored := s.do(t, verb, path+"?fieldValidation=Ignore", c.body, headers...)
				if ignored.code >= 300 || ignored.header.Get("Warning") != "" {
					t.Errorf("ignore: %d %s, warning %q", ignored.code, ignored.body, ignored.header.Get("Warning"))
				}
				if name != "unknown" && ignored.at("data.a") != "2" {
					t.Errorf("the last of two does not hold: %s", ignored.body)
				}
			})
		}
	}
}
