package api_test

import (
	"fmt"
	"strings"
	"testing"
)

// apply applies a document as a manager.
func (s *testServer) apply(t testing.TB, path, manager, doc string) *answer {
	t.Helper()
	return s.do(t, "PATCH", path+"?fieldManager="+manager, doc, applyPatch)
}

func TestApply(t *testing.T) {
	type step struct {
		manager, doc string
		code         int
		want         []string
	}
	pod := func(container string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[` + container + `]}}`
	}
	for name, c := range map[string]struct {
		path  string
		steps []step
	}{
		"create and again": {configMaps + "/cm", []step{
			{"a", cmDoc, 201, []string{"data.a==1", "metadata.managedFields.0.manager==a", "metadata.managedFields.0.operation==Apply"}},
			{"a", cmDoc, 200, []string{"data.a==1", "metadata.resourceVersion==2"}},
		}},
		"own fields go": {configMaps + "/cm", []step{
			{"a", with(cmDoc, `{"data":{"b":"2"}}`), 201, []string{`data=={"a":"1","b":"2"}`}},
			{"a", cmDoc, 200, []string{`data=={"a":"1"}`}},
		}},
		"others' fields stay": {configMaps + "/cm", []step{
			{"a", cmDoc, 201, nil},
			{"b", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"},"data":{"b":"2"}}`, 200, []string{`data=={"a":"1","b":"2"}`}},
			{"a", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"}}`, 200, []string{`data=={"b":"2"}`}},
		}},
		"conflict": {configMaps + "/cm", []step{
			{"a", cmDoc, 201, nil},
			{"b", with(cmDoc, `{"data":{"a":"2"}}`), 409, []string{"reason==Conflict", ".data.a", `\"a\"`, "details.causes.0.reason==FieldManagerConflict"}},
			{"b", cmDoc, 200, []string{"data.a==1"}}, // the same value is no conflict: both own it
			{"a", with(cmDoc, `{"data":{"a":"2"}}`), 409, []string{`\"b\"`}},
		}},
		"force": {configMaps + "/cm", []step{
			{"a", cmDoc, 201, nil},
			{"b&force=true", with(cmDoc, `{"data":{"a":"2"}}`), 200, []string{"data.a==2"}},
			{"a", cmDoc, 409, nil},
		}},
		"list by name": {pods + "/web", []step{
			{"a", pod(`{"name":"c","image":"x"}`), 201, nil},
			{"b", pod(`{"name":"c","image":"x","env":[{"name":"A","value":"1"}]}`), 422, []string{"only image"}},
		}},
		"ports by two keys": {pods + "/web", []step{
			{
				"a", pod(`{"name":"c","image":"x","ports":[{"containerPort":80},{"containerPort":80,"protocol":"UDP"}]}`), 201,
				[]string{"spec.containers.0.ports.0.protocol==TCP", "spec.containers.0.ports.1.protocol==UDP"},
			},
			{"a", pod(`{"name":"c","image":"y","ports":[{"containerPort":80},{"containerPort":80,"protocol":"UDP"}]}`), 200, []string{"spec.containers.0.image==y"}},
			{"b", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"x":"y"}}}`, 200, []string{"metadata.labels.x==y", "spec.containers.0.image==y"}},
		}},
		"a list with one key twice": {pods + "/web", []step{
			{"a", pod(`{"name":"c","image":"x"},{"name":"c","image":"y"}`), 400, []string{"duplicate"}},
		}},
		"another name":    {configMaps + "/cm", []step{{"a", with(cmDoc, `{"metadata":{"name":"other"}}`), 400, []string{"name of the object (other)"}}}},
		"no manager":      {configMaps + "/cm", []step{{"", cmDoc, 400, []string{"fieldManager"}}}},
		"managed fields":  {configMaps + "/cm", []step{{"a", with(cmDoc, `{"metadata":{"managedFields":[{"manager":"x"}]}}`), 400, []string{"managedFields"}}}},
		"no version":      {configMaps + "/cm", []step{{"a", `{"metadata":{"name":"cm"}}`, 400, nil}}},
		"garbage":         {configMaps + "/cm", []step{{"a", `{`, 400, []string{"YAML"}}}},
		"no object":       {configMaps + "/cm", []step{{"a", `5`, 400, nil}}},
		"nothing":         {configMaps + "/cm", []step{{"a", ``, 400, nil}}},
		"unknown, strict": {configMaps + "/cm", []step{{"a&fieldValidation=Strict", with(cmDoc, `{"wonder":1}`), 400, []string{"wonder"}}}},
		"unknown":         {configMaps + "/cm", []step{{"a&fieldValidation=Ignore", with(cmDoc, `{"wonder":1}`), 400, []string{".wonder"}}}}, // nobody can own it
		"a refused field": {pods + "/web", []step{{"a", with(podDoc, `{"spec":{"resourceClaims":[{"name":"x"}]}}`), 422, []string{"spec.resourceClaims"}}}},
		"status": {pods + "/web/status", []step{
			{"a", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"status":{"message":"x"}}`, 404, nil},
		}},
		"of what is there": {configMaps + "/there", []step{
			{"a", with(cmDoc, `{"metadata":{"name":"there"}}`), 200, []string{"data.a==1", "data.b==2"}},
			{"a", with(cmDoc, `{"metadata":{"name":"there"},"data":{"b":"3"}}`), 409, []string{"before-first-apply"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.TempDir())
			if strings.HasSuffix(c.path, "/there") {
				s.make(t, "POST", configMaps, with(cmDoc, `{"metadata":{"name":"there"},"data":{"b":"2"}}`))
			}
			for i, step := range c.steps {
				before := s.store.Revision()
				a := s.apply(t, c.path, step.manager, step.doc)
				a.want(t, step.code, step.want...)
				if a.code >= 300 && s.store.Revision() != before {
					t.Errorf("step %d was refused and stored something", i)
				}
			}
		})
	}
}

// TestUpdateTakesFieldsFromAppliers has an update of what is applied: who
// applied does not own it any more.
func TestUpdateTakesFieldsFromAppliers(t *testing.T) {
	s := serve(t, t.TempDir())
	s.apply(t, configMaps+"/cm", "a", cmDoc).want(t, 201)
	s.do(t, "PATCH", configMaps+"/cm?fieldManager=u", `{"data":{"a":"2"}}`, mergePatch).want(t, 200, `"manager":"u"`)
	s.apply(t, configMaps+"/cm", "a", cmDoc).want(t, 409, `\"u\"`, ".data.a")
}

// TestApplyDoesNotOwnStatus has a client that applies what it read, status and
// all, and a kubelet that goes on to report: neither is in the other's way.
func TestApplyDoesNotOwnStatus(t *testing.T) {
	s := serve(t, t.TempDir())
	s.apply(t, pods+"/web", "a", podDoc).want(t, 201)
	whole := with(podDoc, `{"metadata":{"labels":{"x":"y"}},"status":{"phase":"Pending","message":"mine"}}`)
	s.apply(t, pods+"/web", "a", whole).want(t, 200, "status.message==")
	s.doAs(t, s.kubelet, "PATCH", pods+"/web/status?fieldManager=kubelet", `{"status":{"phase":"Running"}}`, mergePatch).want(t, 200)
	s.apply(t, pods+"/web", "a", whole).want(t, 200, "status.phase==Running", "metadata.labels.x==y")
	s.apply(t, pods+"/web/status", "b", with(podDoc, `{"status":{"message":"b"}}`)).want(t, 200, "status.message==b")
	s.apply(t, pods+"/web", "a", strings.ReplaceAll(whole, "busybox", "other")).want(t, 200, "spec.containers.0.image==other", "status.message==b")
}

// TestApplyAtOnce has managers that create the same object at the same time:
// each finds its fields in it.
func TestApplyAtOnce(t *testing.T) {
	s := serve(t, t.TempDir())
	const n = 10
	codes := make(chan int)
	for i := range n {
		go func() {
			doc := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"},"data":{"k%d":"v"}}`, i)
			codes <- s.apply(t, configMaps+"/cm", fmt.Sprint("m", i), doc).code
		}()
	}
	created := 0
	for range n {
		switch code := <-codes; code {
		case 201:
			created++
		case 200:
		default:
			t.Errorf("got %d", code)
		}
	}
	if got := strings.Count(s.do(t, "GET", configMaps+"/cm", "").at("data"), `"v"`); got != n || created != 1 {
		t.Errorf("%d of %d are there, %d created it", got, n, created)
	}
}
