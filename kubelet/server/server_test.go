package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/server"
)

// streams is a runtime that only says where its streams are.
type streams struct {
	runtimeapi.RuntimeServiceClient
	url string
	got *runtimeapi.ExecRequest
}

func (s *streams) Exec(_ context.Context, r *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	s.got = r
	return &runtimeapi.ExecResponse{Url: s.url + "/exec/token"}, nil
}

type scene struct {
	client *http.Client
	ended  chan struct{}
	sick   error
	rt     *streams
}

func start(t *testing.T) *scene {
	dir, err := os.MkdirTemp("", "server") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}, {Name: "d"}}}}
	p.Status.Phase = v1.PodRunning
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", ContainerID: "x://id", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e"}}}
	p.Status.EphemeralContainerStatuses = []v1.ContainerStatus{{Name: "e", ContainerID: "x://debug", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
	logs := filepath.Join(dir, "ns_p_u", "c")
	line := func(text string) []byte { return []byte("2026-11-23T12:00:00.000000000Z stdout F " + text + "\n") }
	if err := errors.Join(os.MkdirAll(logs, 0o755), os.WriteFile(filepath.Join(logs, "0.log"), line("before"), 0o600),
		os.WriteFile(filepath.Join(logs, "1.log"), append(line("one"), line("two")...), 0o600)); err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "streamed "+r.URL.Path) }))
	t.Cleanup(backend.Close)
	s := &scene{ended: make(chan struct{}), rt: &streams{url: backend.URL}}
	socket := filepath.Join(dir, "s.sock")
	s.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		done <- server.Serve(ctx, server.Config{
			Socket: socket, LogDir: dir, Runtime: s.rt,
			Pod: func(_ context.Context, namespace, name string) *v1.Pod {
				if namespace == p.Namespace && name == p.Name {
					return p
				}
				return nil
			},
			Pods:    func() []*v1.Pod { return []*v1.Pod{p, {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}}} },
			Healthy: func(context.Context) error { return s.sick },
			Ended:   func(context.Context, types.UID, string, uint32) <-chan struct{} { return s.ended },
			Sandbox: func(context.Context, types.UID) (string, error) { return "s", nil },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(socket); err == nil && fi.Mode().Perm() == 0o600 {
			return s
		}
	}
	t.Fatal("no socket that only its owner can open")
	return nil
}

func (s *scene) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := s.client.Get("http://node" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPodsAndHealth(t *testing.T) {
	s := start(t)
	code, body := s.get(t, "/pods")
	var list v1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK || list.Kind != "PodList" || len(list.Items) != 2 || list.Items[0].Name != "a" {
		t.Errorf("/pods answered %d %s (%v)", code, body, err)
	}
	if _, body := s.get(t, "/runningpods/"); json.Unmarshal([]byte(body), &list) != nil || len(list.Items) != 1 || list.Items[0].Name != "p" {
		t.Errorf("/runningpods answered %s", body)
	}
	if code, body := s.get(t, "/healthz"); code != http.StatusOK || body != "ok" {
		t.Errorf("/healthz answered %d %q", code, body)
	}
	s.sick = fault.Unavailable.Errorf("no runtime")
	if code, body := s.get(t, "/healthz"); code != http.StatusInternalServerError || body != "no runtime\n" {
		t.Errorf("/healthz of a sick node answered %d %q", code, body)
	}
}

func TestLogs(t *testing.T) {
	s := start(t)
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/containerLogs/ns/p/c":               {200, "one\ntwo\n"},
		"/containerLogs/ns/p/c?tailLines=1":   {200, "two\n"},
		"/containerLogs/ns/p/c?previous=true": {200, "before\n"},
		"/containerLogs/ns/p/c?limitBytes=5":  {200, "one\nt"},
		"/containerLogs/ns/p/c?tailLines=x":   {400, "tailLines \"x\" is not a number of lines\n"},
		"/containerLogs/ns/p/x":               {404, "Pod \"ns/p\" has no container \"x\" here\n"},
		"/containerLogs/ns/p/e":               {404, "container \"e\" of Pod \"p\" has no such log: it is waiting to start, or never ran before\n"},
		"/containerLogs/ns/p/d":               {404, "container \"d\" of Pod \"p\" has no such log: it is waiting to start, or never ran before\n"},
	} {
		if code, body := s.get(t, path); code != want.code || body != want.body {
			t.Errorf("%s answered %d %q, want %d %q", path, code, body, want.code, want.body)
		}
	}
	close(s.ended)
	if code, body := s.get(t, "/containerLogs/ns/p/c?follow=true"); code != http.StatusOK || body != "one\ntwo\n" {
		t.Errorf("following to the end answered %d %q", code, body)
	}
}

func TestExecIsPassedToTheRuntime(t *testing.T) {
	s := start(t)
	if code, body := s.get(t, "/exec/ns/p/c?command=ls&command=-l&output=1&tty=true"); code != http.StatusOK || body != "streamed /exec/token" {
		t.Errorf("answered %d %q", code, body)
	}
	if r := s.rt.got; r.ContainerId != "id" || len(r.Cmd) != 2 || !r.Stdout || !r.Tty || r.Stdin {
		t.Errorf("the runtime was asked for %v", r)
	}
	if code, _ := s.get(t, "/exec/ns/p/e?command=ls"); code != http.StatusOK || s.rt.got.ContainerId != "debug" {
		t.Errorf("exec in an ephemeral container answered %d, and the runtime was asked for %q", code, s.rt.got.ContainerId)
	}
	if code, _ := s.get(t, "/exec/ns/p/d?command=ls"); code != http.StatusNotFound {
		t.Errorf("exec in a container that does not run answered %d", code)
	}
}
