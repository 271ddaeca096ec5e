package kubelet

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// TestEventsThatAreRefused has an API that refuses the first event, and has lost
// the second when its like comes: neither holds up those that follow.
func TestEventsThatAreRefused(t *testing.T) {
	created := make(chan string, 10)
	answer := func(w http.ResponseWriter, code int, value any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(value); err != nil {
			t.Error(err)
		}
	}
	refusal := func(code int, reason metav1.StatusReason) metav1.Status {
		return metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason}
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			answer(w, http.StatusNotFound, refusal(http.StatusNotFound, metav1.StatusReasonNotFound))
			return
		}
		var e v1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		if e.Reason == "Refused" {
			answer(w, http.StatusUnprocessableEntity, refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid))
			return
		}
		created <- e.Reason
		e.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}
		answer(w, http.StatusCreated, &e)
	}))
	t.Cleanup(api.Close)
	c, err := client.New(&rest.Config{Host: api.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k := &Kubelet{client: c, config: Config{NodeName: "node", Logger: slog.New(slog.DiscardHandler)}}
	tell := k.recorder(ctx)
	of := call.Pod{Namespace: "default", Name: "p", UID: "u"}
	for _, reason := range []string{"Refused", "Kept", "Kept"} {
		tell(pod.Event{Pod: of, Type: v1.EventTypeNormal, Reason: reason, Message: "said"})
	}
	for range 2 {
		select {
		case reason := <-created:
			if reason != "Kept" {
				t.Errorf("created an event of reason %q", reason)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("an event that was refused holds up the next")
		}
	}
}
