package api_test

import (
	"fmt"
	"testing"
	"time"
)

func TestDelete(t *testing.T) {
	const gone = 404
	for name, c := range map[string]struct {
		doc, query, body string
		code             int
		want             []string
		then             int
	}{
		"a grace of its own":  {podDoc, "", "", 200, []string{"metadata.deletionGracePeriodSeconds==30", "metadata.generation==2"}, 200},
		"a shorter grace":     {podDoc, "?gracePeriodSeconds=5", "", 200, []string{"metadata.deletionGracePeriodSeconds==5"}, 200},
		"by the body":         {podDoc, "?gracePeriodSeconds=5", `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":7}`, 200, []string{"metadata.deletionGracePeriodSeconds==7"}, 200},
		"no grace":            {podDoc, "?gracePeriodSeconds=0", "", 200, []string{"metadata.name==web"}, gone},
		"a negative grace":    {podDoc, "?gracePeriodSeconds=-1", "", 400, []string{"negative"}, 200},
		"no number":           {podDoc, "?gracePeriodSeconds=x", "", 400, nil, 200},
		"another uid":         {podDoc, "", `{"preconditions":{"uid":"other"}}`, 409, []string{"reason==Conflict"}, 200},
		"another revision":    {podDoc, "", `{"preconditions":{"resourceVersion":"1"}}`, 409, []string{"reason==Conflict"}, 200},
		"a finalizer":         {with(podDoc, `{"metadata":{"finalizers":["example.com/x"]}}`), "?gracePeriodSeconds=0", "", 200, []string{"metadata.deletionGracePeriodSeconds==0"}, 200},
		"a bad propagation":   {podDoc, "?propagationPolicy=Perhaps", "", 400, []string{"Background"}, 200},
		"what is not options": {podDoc, "", podDoc, 400, []string{"Pod"}, 200},
		"garbage":             {podDoc, "", `{`, 400, nil, 200},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.TempDir())
			s.make(t, "POST", pods, c.doc)
			s.do(t, "DELETE", pods+"/web"+c.query, c.body).want(t, c.code, c.want...)
			s.do(t, "GET", pods+"/web", "").want(t, c.then)
			s.do(t, "DELETE", pods+"/other", "").want(t, 404, "reason==NotFound")
		})
	}
}

func TestGraceOnlyShrinks(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	for _, step := range []struct {
		asked int
		want  string
	}{{20, "20"}, {60, "20"}, {20, "20"}, {5, "5"}, {20, "5"}} {
		a := s.do(t, "DELETE", fmt.Sprintf("%s/web?gracePeriodSeconds=%d", pods, step.asked), "")
		a.want(t, 200, "metadata.deletionGracePeriodSeconds=="+step.want)
		end, err := time.Parse(time.RFC3339, a.at("metadata.deletionTimestamp"))
		if left := time.Until(end); err != nil || left > 21*time.Second {
			t.Errorf("asked for %d: ends in %v, %v", step.asked, left, err)
		}
	}
	s.make(t, "DELETE", pods+"/web?gracePeriodSeconds=0", "")
	s.do(t, "GET", pods+"/web", "").want(t, 404)
}

func TestFinishedPodGoesAtOnce(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	s.make(t, "PATCH", pods+"/web/status", `{"status":{"phase":"Succeeded"}}`, mergePatch)
	s.make(t, "DELETE", pods+"/web", "")
	s.do(t, "GET", pods+"/web", "").want(t, 404)
}

func TestEviction(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", pods, podDoc)
	body := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web"},"deleteOptions":{"gracePeriodSeconds":3}}`
	s.do(t, "GET", pods+"/web/eviction", "").want(t, 405)
	s.do(t, "POST", pods+"/other/eviction", `{}`).want(t, 404)
	for name, bad := range map[string]string{
		"negative":          `{"deleteOptions":{"gracePeriodSeconds":-1}}`,
		"propagationPolicy": `{"deleteOptions":{"propagationPolicy":"Perhaps"}}`,
		"(other)":           `{"metadata":{"name":"other"}}`,
	} {
		s.do(t, "POST", pods+"/web/eviction", bad).want(t, 400, name)
	}
	s.do(t, "GET", pods+"/web", "").want(t, 200, "metadata.deletionTimestamp==")
	s.do(t, "POST", pods+"/web/eviction", body).want(t, 201, "status==Success")
	s.do(t, "GET", pods+"/web", "").want(t, 200, "metadata.deletionGracePeriodSeconds==3")
	s.do(t, "POST", pods+"/web/binding", `{}`).want(t, 409, `node \"node\"`)
}

func TestDeleteCollection(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, n := range []string{"default", "other"} {
		for i := range 4 {
			doc := fmt.Sprintf(`{"metadata":{"name":"cm%d","labels":{"odd":"%d"}}}`, i, i%2)
			s.make(t, "POST", "/api/v1/namespaces/"+n+"/configmaps", doc)
		}
	}
	left := func() string {
		names := ""
		for i := range 9 {
			names += s.do(t, "GET", "/api/v1/configmaps", "").at(fmt.Sprintf("items.%d.metadata.name", i))
		}
		return names
	}
	s.do(t, "DELETE", configMaps+"?labelSelector=odd%3D1", "").want(t, 200, "status==Success")
	if got := left(); got != "cm0cm2cm0cm1cm2cm3" {
		t.Errorf("left: %s", got)
	}
	s.do(t, "DELETE", configMaps+"?fieldSelector=wonder%3D1", "").want(t, 400)
	s.do(t, "DELETE", "/api/v1/configmaps", "").want(t, 405) // that of all namespaces
	s.do(t, "DELETE", configMaps, "").want(t, 200)
	if got := left(); got != "cm0cm1cm2cm3" {
		t.Errorf("left: %s", got)
	}
}

// TestPropagation has an owner and what depends on it, which has something
// that depends on it too.
func TestPropagation(t *testing.T) {
	owned := func(name string, owner *answer, more string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":%q,"uid":%q%s}]}}`,
			name, owner.at("metadata.name"), owner.at("metadata.uid"), more)
	}
	for policy, left := range map[string][]string{
		"":           {"stranger"},
		"Background": {"stranger"},
		"Foreground": {"stranger"},
		"Orphan":     {"child", "grandchild", "stranger"},
	} {
		t.Run(policy, func(t *testing.T) {
			s := serve(t, t.TempDir())
			owner := s.make(t, "POST", configMaps, `{"metadata":{"name":"owner"}}`)
			child := s.make(t, "POST", configMaps, owned("child", owner, `,"blockOwnerDeletion":true`))
			s.make(t, "POST", configMaps, owned("grandchild", child, `,"blockOwnerDeletion":true`))
			s.make(t, "POST", configMaps, `{"metadata":{"name":"stranger","ownerReferences":[{"apiVersion":"example.com/v1","kind":"Wonder","name":"w","uid":"w"}]}}`)
			body := ""
			if policy != "" {
				body = fmt.Sprintf(`{"propagationPolicy":%q}`, policy)
			}
			s.make(t, "DELETE", configMaps+"/owner", body)
			eventually(t, "what remains", func() bool {
				list := s.do(t, "GET", configMaps, "")
				for i, name := range left {
					if list.at(fmt.Sprintf("items.%d.metadata.name", i)) != name {
						return false
					}
				}
				return list.at(fmt.Sprintf("items.%d.metadata.name", len(left))) == ""
			})
			if policy == "Orphan" {
				s.do(t, "GET", configMaps+"/child", "").want(t, 200, "metadata.ownerReferences==")
			}
		})
	}
}

// TestForegroundWaits has a dependent that does not go: its owner stays with it.
func TestForegroundWaits(t *testing.T) {
	s := serve(t, t.TempDir())
	uid := s.make(t, "POST", configMaps, `{"metadata":{"name":"owner"}}`).at("metadata.uid")
	s.make(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"child","finalizers":["example.com/x"],
		"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":%q,"blockOwnerDeletion":true}]}}`, uid))
	s.do(t, "DELETE", configMaps+"/owner?propagationPolicy=Foreground", "").want(t, 202, `metadata.finalizers==["foregroundDeletion"]`)
	eventually(t, "the child ends", func() bool { return s.do(t, "GET", configMaps+"/child", "").at("metadata.deletionTimestamp") != "" })
	time.Sleep(50 * time.Millisecond)
	s.do(t, "GET", configMaps+"/owner", "").want(t, 200)
	s.make(t, "PATCH", configMaps+"/child", `[{"op":"remove","path":"/metadata/finalizers"}]`, jsonPatch)
	eventually(t, "both go", func() bool { return s.do(t, "GET", configMaps, "").at("items") == "[]" })
}

// TestForegroundSparesOthers has dependents with a second owner: one that stays,
// one of a kind that is not here, one that goes as well, and one that is gone.
func TestForegroundSparesOthers(t *testing.T) {
	s := serve(t, t.TempDir())
	uid := func(name string) string {
		return s.make(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).at("metadata.uid")
	}
	ref := func(kind, name, uid string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"name":%q,"uid":%q,"blockOwnerDeletion":true}`, kind, name, uid)
	}
	owner, stays, goes, gone := uid("a"), uid("b"), uid("c"), uid("d")
	for name, other := range map[string]string{
		"of-b": ref("ConfigMap", "b", stays), "of-c": ref("ConfigMap", "c", goes), "of-d": ref("ConfigMap", "d", gone), "of-service": ref("Service", "s", "s"),
	} {
		s.make(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":%q,"ownerReferences":[%s,%s]}}`, name, ref("ConfigMap", "a", owner), other))
	}
	s.make(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"holds-c","finalizers":["example.com/x"],"ownerReferences":[%s]}}`, ref("ConfigMap", "c", goes)))
	s.make(t, "DELETE", configMaps+"/d", "")
	s.make(t, "DELETE", configMaps+"/c?propagationPolicy=Foreground", "")
	s.make(t, "DELETE", configMaps+"/a?propagationPolicy=Foreground", "")
	eventually(t, "the owner goes", func() bool { return s.do(t, "GET", configMaps+"/a", "").code == 404 })
	s.do(t, "GET", configMaps+"/of-b", "").want(t, 200, "metadata.deletionTimestamp==", "metadata.ownerReferences.0.name==b", "metadata.ownerReferences.1==")
	s.do(t, "GET", configMaps+"/of-service", "").want(t, 200, "metadata.deletionTimestamp==", "metadata.ownerReferences.0.name==s", "metadata.ownerReferences.1==")
	for _, name := range []string{"of-c", "of-d"} {
		s.do(t, "GET", configMaps+"/"+name, "").want(t, 404)
	}
}

// TestEndingTakesNoFinalizers has an object that ends: what holds it can only
// become less, and the last word on its dependents holds.
func TestEndingTakesNoFinalizers(t *testing.T) {
	s := serve(t, t.TempDir())
	s.make(t, "POST", configMaps, with(cmDoc, `{"metadata":{"finalizers":["example.com/x","example.com/y"]}}`))
	s.make(t, "DELETE", configMaps+"/cm", "")
	s.do(t, "PATCH", configMaps+"/cm", `{"metadata":{"finalizers":["example.com/x","example.com/z"]}}`, mergePatch).want(t, 422, "metadata.finalizers", "example.com/z")
	s.do(t, "PATCH", configMaps+"/cm", `{"metadata":{"finalizers":["example.com/x"]}}`, mergePatch).want(t, 200)
	s.make(t, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"child","finalizers":["example.com/x"],"ownerReferences":[
		{"apiVersion":"v1","kind":"ConfigMap","name":"cm","uid":%q,"blockOwnerDeletion":true}]}}`, s.do(t, "GET", configMaps+"/cm", "").at("metadata.uid")))
	s.do(t, "DELETE", configMaps+"/cm?propagationPolicy=Foreground", "").want(t, 202, `metadata.finalizers==["example.com/x","foregroundDeletion"]`)
	s.do(t, "DELETE", configMaps+"/cm?propagationPolicy=Orphan&dryRun=All", "").want(t, 202, `metadata.finalizers==["example.com/x","orphan"]`)
	s.do(t, "DELETE", configMaps+"/cm?propagationPolicy=Background", "").want(t, 202, `metadata.finalizers==["example.com/x"]`)
}
