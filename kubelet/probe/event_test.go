package probe_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/probe"
)

// TestEventsOfProbes: each failure that counts is told, and the early tries of
// readiness are not.
func TestEventsOfProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		a := &app{code: map[string]int32{"ready": 1}, begun: time.Now()}
		var mu sync.Mutex
		var got []string
		m := probe.New(ctx, probe.Config{Exec: a.exec, Changed: func(types.UID) {}, Event: func(e pod.Event) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, e.Type+" "+e.Reason+" "+e.Field+": "+e.Message)
		}})
		m.Sync(podWith(v1.Container{ReadinessProbe: execProbe("ready"), LivenessProbe: execProbe("alive")}), up("1"))
		time.Sleep(9 * time.Second)
		if a.count() < 5 || len(got) > 0 {
			t.Errorf("after %d tries: %v", a.count(), got)
		}
		a.set("ready", 0)
		time.Sleep(20 * time.Second) // ready
		a.set("ready", 1)
		time.Sleep(10 * time.Second)
		a.set("ready", 0)
		a.set("alive", 1)
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		want := []string{
			"Warning Unhealthy spec.containers{c}: Readiness probe failed: the command ended with code 1: said so",
			"Warning Unhealthy spec.containers{c}: Liveness probe failed: the command ended with code 1: said so",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// TestRedirectToAnotherHostIsAWarning: it passes, and says little.
func TestRedirectToAnotherHostIsAWarning(t *testing.T) {
	web := httptest.NewServer(http.RedirectHandler("http://elsewhere.invalid/", http.StatusFound))
	defer web.Close()
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan pod.Event, 10)
	m := probe.New(t.Context(), probe.Config{Changed: func(types.UID) {}, Event: func(e pod.Event) { events <- e }})
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.Parse(u.Port())}}, PeriodSeconds: 1, TimeoutSeconds: 1}
	m.Sync(podWith(v1.Container{ReadinessProbe: p}), up("1"))
	e := <-events
	if e.Reason != pod.EventProbeWarning || !strings.Contains(e.Message, "elsewhere.invalid") {
		t.Errorf("event %+v", e)
	}
	m.Forget("u")
}
