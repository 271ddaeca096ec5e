package probe_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/probe"
)

// app is a container whose exec probes answer what the test sets, and which
// keeps the times of the probes.
type app struct {
	mu    sync.Mutex
	code  map[string]int32
	err   error
	times []time.Duration
	begun time.Time
}

func (a *app) exec(_ context.Context, _ string, command []string, _ time.Duration) (int32, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, time.Since(a.begun))
	return a.code[command[0]], "said so", a.err
}

func (a *app) set(probe string, code int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.code[probe] = code
}

func (a *app) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.times)
}

func execProbe(name string) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:   v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{name}}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

func podWith(c v1.Container) *v1.Pod {
	c.Name = "c"
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{c}}}
}

func up(id string) *pod.Observation {
	return &pod.Observation{Sandboxes: []pod.Sandbox{{IPs: []string{"127.0.0.1"}}}, Containers: []pod.Container{{ID: id, Name: "c", State: pod.Running}}}
}

// scene runs probes of p in a bubble of virtual time.
func scene(t *testing.T, a *app, p *v1.Pod, test func(m *probe.Manager, changes *int)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changes := 0
		var mu sync.Mutex
		m := probe.New(ctx, probe.Config{Exec: a.exec, Changed: func(types.UID) { mu.Lock(); changes++; mu.Unlock() }})
		a.begun = time.Now()
		m.Sync(p, up("1"))
		synctest.Wait()
		test(m, &changes)
		cancel()
		synctest.Wait()
	})
}

func TestReadyAtOnce(t *testing.T) {
	a := &app{code: map[string]int32{}}
	scene(t, a, podWith(v1.Container{ReadinessProbe: execProbe("ready")}), func(m *probe.Manager, changes *int) {
		if got := m.Results("u")["1"].Readiness; got != pod.Success || *changes != 1 {
			t.Errorf("readiness %v after %d changes, in no time", got, *changes)
		}
	})
}

func TestReadySoonIsSeenSoon(t *testing.T) {
	a := &app{code: map[string]int32{"ready": 1}}
	scene(t, a, podWith(v1.Container{ReadinessProbe: execProbe("ready")}), func(m *probe.Manager, _ *int) {
		time.Sleep(30 * time.Millisecond)
		a.set("ready", 0)
		time.Sleep(31 * time.Millisecond) // as long again as it took
		synctest.Wait()
		if got := m.Results("u")["1"].Readiness; got != pod.Success {
			t.Errorf("readiness %v", got)
		}
		before := a.count()
		time.Sleep(30 * time.Second)
		if got := a.count() - before; got != 3 {
			t.Errorf("%d probes in 30 s of readiness, want one each period", got)
		}
	})
}

func TestReadinessNeedsItsFailures(t *testing.T) {
	a := &app{code: map[string]int32{}}
	scene(t, a, podWith(v1.Container{ReadinessProbe: execProbe("ready")}), func(m *probe.Manager, _ *int) {
		a.set("ready", 1)
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"].Readiness; got != pod.Success {
			t.Errorf("after two failures: %v", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"]; got.Readiness != pod.Failure {
			t.Errorf("after three failures: %+v", got)
		}
	})
}

func TestStartupGatesAndIsNotFailedByItsEarlyTries(t *testing.T) {
	a := &app{code: map[string]int32{"start": 1}}
	scene(t, a, podWith(v1.Container{StartupProbe: execProbe("start"), LivenessProbe: execProbe("live"), ReadinessProbe: execProbe("ready")}), func(m *probe.Manager, _ *int) {
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"]; got.Startup != pod.Pending || got.Readiness != pod.Pending {
			t.Errorf("while starting: %+v", got)
		}
		a.set("start", 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"]; got.Startup != pod.Success || got.Readiness != pod.Success || got.Liveness != pod.Success {
			t.Errorf("started: %+v", got)
		}
	})
}

func TestStartupFailsInTheEnd(t *testing.T) {
	a := &app{code: map[string]int32{"start": 1}}
	scene(t, a, podWith(v1.Container{StartupProbe: execProbe("start")}), func(m *probe.Manager, _ *int) {
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"]; got.Startup != pod.Failure {
			t.Errorf("after a minute: %+v", got)
		}
		n := a.count()
		time.Sleep(time.Minute)
		if a.count() != n {
			t.Error("probed on after the verdict")
		}
	})
}

func TestLivenessIsHeldUntilAnotherInstance(t *testing.T) {
	a := &app{code: map[string]int32{"live": 1}}
	p := podWith(v1.Container{LivenessProbe: execProbe("live")})
	scene(t, a, p, func(m *probe.Manager, _ *int) {
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"]; got.Liveness != pod.Failure || got.Message == "" {
			t.Errorf("after three failures: %+v", got)
		}
		a.set("live", 0)
		time.Sleep(time.Minute)
		if got := m.Results("u")["1"].Liveness; got != pod.Failure {
			t.Errorf("the verdict was not held: %v", got)
		}
		m.Sync(p, up("2"))
		synctest.Wait()
		if got := m.Results("u"); len(got) != 1 || got["2"].Liveness != pod.Success {
			t.Errorf("the next instance: %+v", got)
		}
	})
}

func TestRestartOfTheNodeKeepsReadiness(t *testing.T) {
	a := &app{code: map[string]int32{"ready": 1}}
	p := podWith(v1.Container{ReadinessProbe: execProbe("ready")})
	started := true
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", ContainerID: "x://1", Ready: true, Started: &started}}
	scene(t, a, p, func(m *probe.Manager, _ *int) {
		time.Sleep(19 * time.Second)
		if got := m.Results("u")["1"].Readiness; got != pod.Success {
			t.Errorf("one failed probe after the restart: %v", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"].Readiness; got != pod.Failure {
			t.Errorf("three failed probes after the restart: %v", got)
		}
	})
}

func TestTroubleOfTheProberIsNoFailure(t *testing.T) {
	a := &app{code: map[string]int32{}, err: context.Canceled}
	scene(t, a, podWith(v1.Container{LivenessProbe: execProbe("live")}), func(m *probe.Manager, _ *int) {
		time.Sleep(5 * time.Minute)
		if got := m.Results("u")["1"].Liveness; got != pod.Success {
			t.Errorf("liveness %v", got)
		}
		a.mu.Lock()
		a.err = context.DeadlineExceeded
		a.mu.Unlock()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := m.Results("u")["1"].Liveness; got != pod.Failure {
			t.Errorf("liveness %v after timeouts", got)
		}
	})
}

// TestNetworkProbes probes real servers.
func TestNetworkProbes(t *testing.T) {
	status := http.StatusOK
	var mu sync.Mutex
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
			return
		}
		if r.Header.Get("X-Probe") != "yes" || r.URL.Query().Get("q") != "1" {
			http.Error(w, "not what the probe says", http.StatusTeapot)
			return
		}
		w.WriteHeader(status)
	}))
	defer web.Close()
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	go server.Serve(l) // ends with Stop
	defer server.Stop()
	checks.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	sick, well := "sick", ""
	grpcPort := int32(l.Addr().(*net.TCPAddr).Port)

	get := func(path string) v1.ProbeHandler {
		return v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []v1.HTTPHeader{{Name: "X-Probe", Value: "yes"}}}}
	}
	cases := map[string]struct {
		handler v1.ProbeHandler
		want    pod.Outcome
	}{
		"http":             {get("/?q=1"), pod.Success},
		"http, no":         {get("/"), pod.Failure},
		"redirect away":    {get("/away"), pod.Success},
		"no such port":     {v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromString("none")}}, pod.Failure},
		"tcp":              {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(port)}}, pod.Success},
		"tcp, closed":      {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(1)}}, pod.Failure},
		"grpc":             {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort, Service: &well}}, pod.Success},
		"grpc, sick":       {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort, Service: &sick}}, pod.Failure},
		"grpc, not spoken": {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: int32(port), Service: &well}}, pod.Failure},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			changed := make(chan struct{}, 10)
			m := probe.New(t.Context(), probe.Config{Changed: func(types.UID) { changed <- struct{}{} }})
			p := execProbe("")
			p.ProbeHandler, p.FailureThreshold = c.handler, 1
			// Liveness says Success until it fails, readiness says so only when it is so.
			spec := v1.Container{ReadinessProbe: p, Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
			if c.want == pod.Failure {
				spec.ReadinessProbe, spec.LivenessProbe = nil, p
			}
			m.Sync(podWith(spec), up("1"))
			select {
			case <-changed:
			case <-time.After(5 * time.Second):
				t.Fatal("no verdict")
			}
			got := m.Results("u")["1"]
			if c.want == pod.Success && got.Readiness != pod.Success || c.want == pod.Failure && got.Liveness != pod.Failure {
				t.Errorf("got %+v", got)
			}
			m.Forget("u")
		})
	}
}
