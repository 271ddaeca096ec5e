package simulation_test

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// way is what the instances of a container do.
type way struct {
	ends        float64 // the probability that it ends by itself, after least to most
	least, most time.Duration
	fails       float64 // that it does with a code other than zero
	sick        float64 // that its liveness probe fails in the end
	deaf        float64 // to the stop signal
}

// newPod returns the life's n-th Pod, and notes the ways of its containers.
func (l *life) newPod(n int) *v1.Pod {
	d, key := l.dice, fmt.Sprintf("pod %d ", n)
	grace := pick(d, key+"grace", int64(0), 1, 2, 5, 30, 30, 60)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: types.UID(fmt.Sprintf("u%d", n))},
		Spec: v1.PodSpec{
			RestartPolicy:                 pick(d, key+"policy", v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever),
			TerminationGracePeriodSeconds: &grace,
		},
	}
	if d.chance(key+"limited", 0.1) {
		limit := int64(d.spread(key+"limit", 3*time.Second, 10*time.Minute) / time.Second)
		p.Spec.ActiveDeadlineSeconds = &limit
	}
	if d.chance(key+"volume", 0.3) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}}
	}
	for i := range max(d.upTo(key+"inits", 6)-2, 0) {
		c := v1.Container{Name: fmt.Sprintf("init%d", i)}
		if d.chance(key+"sidecar", 0.4) {
			always := v1.ContainerRestartPolicyAlways
			c.Name, c.RestartPolicy = fmt.Sprintf("side%d", i), &always
			l.furnish(&c)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range 1 + d.upTo(key+"apps", 3) {
		c := v1.Container{Name: fmt.Sprintf("app%d", i)}
		l.furnish(&c)
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i].Image = pick(d, key+"image", "image:1", "image:1", "image:2", "remote:1")
			l.ways[list[i].Name] = l.newWay(&list[i])
		}
	}
	return p
}

// furnish gives a container that stays probes and hooks.
func (l *life) furnish(c *v1.Container) {
	d, key := l.dice, "furnish "+c.Name
	probe := func(what string, p float64) *v1.Probe {
		if !d.chance(key+what, p) {
			return nil
		}
		probe := &v1.Probe{
			ProbeHandler:  v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{what}}},
			PeriodSeconds: pick(d, key+what, int32(1), 5, 10), FailureThreshold: pick(d, key+what, int32(1), 3, 30),
		}
		if what == "liveness" && d.chance(key+"own grace", 0.3) {
			own := pick(d, key+"own grace", int64(1), 5, 90)
			probe.TerminationGracePeriodSeconds = &own
		}
		return probe
	}
	c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = probe("startup", 0.15), probe("liveness", 0.2), probe("readiness", 0.2)
	hook := func(what string) *v1.LifecycleHandler {
		if d.chance(key+what, 0.5) {
			return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{what}}}
		}
		return &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: int64(d.upTo(key+what, 15))}}
	}
	if d.chance(key+"hooks", 0.25) {
		c.Lifecycle = &v1.Lifecycle{}
		if d.chance(key+"postStart", 0.5) {
			c.Lifecycle.PostStart = hook("postStart")
		}
		if d.chance(key+"preStop", 0.7) {
			c.Lifecycle.PreStop = hook("preStop")
		}
	}
}

func (l *life) newWay(c *v1.Container) way {
	d, key := l.dice, "way "+c.Name
	w := way{sick: 0.3, deaf: pick(d, key, 0, 0, 0.5, 1), fails: pick(d, key, 0, 0, 0.3, 1)}
	switch {
	case strings.HasPrefix(c.Name, "init"):
		w.ends, w.least, w.most = 1, time.Millisecond, 20*time.Second
		w.fails = pick(d, key, 0, 0, 0, 0.5, 1)
	case d.chance(key, 0.4): // a service
		w.ends, w.least, w.most = 0.2, time.Second, 20*time.Minute
	default: // a job
		w.ends, w.least, w.most = 0.95, time.Millisecond, 2*time.Minute
	}
	return w
}

// find returns the container in the Pod's spec, and its place among the init
// containers, -1 for none.
func find(p *v1.Pod, name string) (c *v1.Container, init int) {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i], i
		}
	}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return &p.Spec.Containers[i], -1
		}
	}
	return nil, -1
}

func isSidecar(c *v1.Container) bool { return c.RestartPolicy != nil }

// isPlainInit reports whether the name is of an init container that ends. The
// caller holds life.mu.
func (l *life) isPlainInit(uid types.UID, name string) bool {
	c, init := find(l.rules.pods[uid].pod, name)
	return init >= 0 && !isSidecar(c)
}

// probeOf returns the container's probe of that name, or nil. The caller holds
// life.mu.
func (l *life) probeOf(c *container, word string) *v1.Probe {
	spec, _ := find(l.rules.pods[c.sandbox.uid].pod, c.name)
	switch word {
	case "startup":
		return spec.StartupProbe
	case "liveness":
		return spec.LivenessProbe
	default:
		return nil
	}
}
