package client_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
)

func connect(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := client.New(&rest.Config{Host: s.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		panic(err)
	}
}

// TestFollowEndsQuietly: its end is no error of the watch that it was asking for.
func TestFollowEndsQuietly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.FormValue("sendInitialEvents") != "": // it lists then
			answer(w, 422, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid})
			return
		case r.FormValue("watch") != "":
			cancel()
			<-r.Context().Done()
			return
		}
		answer(w, 200, v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}})
	}))
	defer s.Close()
	var log strings.Builder
	c, err := client.New(&rest.Config{Host: s.URL}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Follow(ctx, &v1.Pod{}, "", client.Handler{Synced: func() {}}); err != nil || log.Len() > 0 {
		t.Errorf("%v; it logged %s", err, log.String())
	}
}

// TestKindsOfErrors has an API that refuses in every way.
func TestKindsOfErrors(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		reason metav1.StatusReason
		want   fault.Kind
	}{
		"not found":   {404, metav1.StatusReasonNotFound, fault.NotFound},
		"exists":      {409, metav1.StatusReasonAlreadyExists, fault.AlreadyExists},
		"conflict":    {409, metav1.StatusReasonConflict, fault.Aborted},
		"invalid":     {422, metav1.StatusReasonInvalid, fault.Invalid},
		"bad request": {400, metav1.StatusReasonBadRequest, fault.Invalid},
		"forbidden":   {403, metav1.StatusReasonForbidden, fault.PermissionDenied},
		"expired":     {410, metav1.StatusReasonExpired, fault.OutOfRange},
		"gone":        {410, metav1.StatusReasonGone, fault.OutOfRange},
		"full disk":   {507, metav1.StatusReasonInternalError, fault.Exhausted},
		"unavailable": {503, metav1.StatusReasonServiceUnavailable, fault.Unavailable},
		"timeout":     {504, metav1.StatusReasonTimeout, fault.Unavailable},
	} {
		api := connect(t, func(w http.ResponseWriter, _ *http.Request) {
			answer(w, c.code, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(c.code), Reason: c.reason})
		})
		if err := api.Get(t.Context(), "ns", "p", &v1.Pod{}); fault.Of(err) != c.want {
			t.Errorf("%s: %v is %s, want %s", name, err, fault.Of(err), c.want)
		}
	}
	nobody, err := client.New(&rest.Config{Host: "http://127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Get(t.Context(), "ns", "p", &v1.Pod{}); fault.Of(err) != fault.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}
