package api_test

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

const (
	newEvents  = "/apis/events.k8s.io/v1/namespaces/default/events"
	coreEvents = "/api/v1/namespaces/default/events"
)

// TestNewEventRecorder has the recorder that controllers use now, over both
// encodings: what it writes is there for "kubectl get events", and what repeats
// becomes a series.
func TestNewEventRecorder(t *testing.T) {
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			s := serve(t, t.TempDir())
			s.make(t, "POST", pods, podDoc)
			config := rest.CopyConfig(s.config)
			config.ContentType = media
			client, err := kubernetes.NewForConfig(config)
			must(t, err)
			pod, err := client.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
			must(t, err)
			watch, err := client.EventsV1().Events("default").Watch(t.Context(), metav1.ListOptions{})
			must(t, err)
			defer watch.Stop()
			broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
			stop := make(chan struct{})
			defer close(stop)
			defer broadcaster.Shutdown()
			broadcaster.StartRecordingToSink(stop)
			recorder := broadcaster.NewRecorder(scheme.Scheme, "tester")
			tell := func() { recorder.Eventf(pod, nil, v1.EventTypeNormal, "Tested", "Testing", "it is %s", "well") }
			tell()
			first := (<-watch.ResultChan()).Object.(*eventsv1.Event)
			if first.Regarding.Name != "web" || first.Note != "it is well" || first.ReportingController != "tester" || first.Action != "Testing" {
				t.Errorf("watched: %+v", first)
			}
			tell() // when the first is stored: a recorder that is quicker waits ten seconds
			eventually(t, "the series", func() bool { return s.do(t, "GET", coreEvents, "").at("items.0.series.count") == "2" })
			s.do(t, "GET", coreEvents, "").want(t, 200, "items.0.involvedObject.name==web", "items.0.message==it is well",
				"items.0.reportingComponent==tester", "items.0.reason==Tested", "items.0.apiVersion==v1", "items.1==")
			list, err := client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Tested"})
			must(t, err)
			if len(list.Items) != 1 || list.Items[0].Series.Count != 2 || list.Items[0].Note != "it is well" {
				t.Errorf("listed: %+v", list.Items)
			}
			must(t, client.EventsV1().Events("default").Delete(t.Context(), first.Name, metav1.DeleteOptions{}))
			if n := meta.LenList(list); n != 1 || s.do(t, "GET", coreEvents, "").at("items") != "[]" {
				t.Error("it was not deleted")
			}
		})
	}
}

// TestNewEvents has requests as they go over the wire.
func TestNewEvents(t *testing.T) {
	s := serve(t, t.TempDir())
	const doc = `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"regarding":{"kind":"Pod","name":"web"},"note":"n",
		"deprecatedCount":3,"deprecatedSource":{"component":"c"},"reason":"R","type":"Normal","action":"A","reportingController":"rc"}`
	s.do(t, "POST", newEvents, doc).want(t, 201, "apiVersion==events.k8s.io/v1", "kind==Event", "note==n", "message==", "regarding.name==web", "deprecatedCount==3")
	s.do(t, "POST", newEvents, doc).want(t, 409, "reason==AlreadyExists", "kind==Status")
	s.do(t, "POST", newEvents, `{`).want(t, 400)
	s.do(t, "POST", newEvents, `{"garbage`, "Content-Type: application/vnd.kubernetes.protobuf").want(t, 400)
	s.do(t, "POST", "/apis/events.k8s.io/v1/namespaces/none/events", doc).want(t, 404, "details.name==none")
	s.do(t, "GET", coreEvents+"/e", "").want(t, 200, "message==n", "count==3", "source.component==c", "involvedObject.name==web", "reportingComponent==rc")
	s.do(t, "GET", newEvents+"/e", "").want(t, 200, "apiVersion==events.k8s.io/v1", "note==n", "deprecatedSource.component==c", "reportingController==rc")
	s.do(t, "GET", newEvents, "").want(t, 200, "apiVersion==events.k8s.io/v1", "kind==EventList", "items.0.note==n", "items.0.message==")
	s.do(t, "GET", "/apis/events.k8s.io/v1/events", "").want(t, 200, "items.0.apiVersion==events.k8s.io/v1")
	s.do(t, "GET", newEvents, "", asTable).want(t, 200, "kind==Table", "rows.0.object.metadata.name==e")
	s.do(t, "GET", newEvents+"/other", "").want(t, 404, "kind==Status")
	s.do(t, "PATCH", newEvents+"/e", `{"note":"m"}`, mergePatch).want(t, 200, "note==m", "regarding.name==web")
	s.do(t, "PATCH", newEvents+"/e", `{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`, strategicPatch).want(t, 200, "series.count==2", "note==m")
	s.do(t, "PATCH", newEvents+"/e", `[{"op":"test","path":"/note","value":"m"},{"op":"replace","path":"/regarding/name","value":"x"}]`, jsonPatch).want(t, 200, "regarding.name==x")
	s.do(t, "PATCH", newEvents+"/e?fieldManager=m", doc, applyPatch).want(t, 415, "apply those of v1")
	s.do(t, "PUT", newEvents+"/e", doc).want(t, 200, "note==n", "regarding.name==web")
	s.do(t, "GET", "/apis/events.k8s.io/v1", "").want(t, 200, "resources.0.name==events", "resources.0.kind==Event")
	s.do(t, "GET", "/apis/events.k8s.io/v1/wonders", "").want(t, 404)
	s.do(t, "DELETE", newEvents+"/e", `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}`).want(t, 409)
	s.do(t, "DELETE", newEvents+"/e", "").want(t, 200, "status==Success")
	s.do(t, "GET", coreEvents+"/e", "").want(t, 404)
}
