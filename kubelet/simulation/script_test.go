package simulation_test

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// event is something that happens to the Pod from outside.
type event struct {
	at time.Duration
	do func()
}

// script returns what users do and what befalls the machine, in order.
func (l *life) script() []event {
	var list []event
	add := func(n int, what string, do func(key string)) {
		for i := range n {
			key := fmt.Sprintf("%s %d", what, i)
			list = append(list, event{l.dice.spread("at "+key, 10*time.Millisecond, l.temper.span), func() { do(key) }})
		}
	}
	t := &l.temper
	add(l.dice.upTo("changes", t.events), "image", l.changeImage)
	add(l.dice.upTo("retries", 2), "retry", l.tellOfObjects)
	add(t.deaths*l.dice.upTo("kills", 2), "kill", func(string) { l.kill("by the script") })
	if t.failBefore > 0 {
		add(l.dice.upTo("downs", 3), "down", l.runtimeDown)
	}
	if t.meddles {
		add(l.dice.upTo("meddles", t.events), "meddle", l.meddle)
	}
	if t.reboots {
		add(l.dice.upTo("reboots", 3), "reboot", l.reboot)
	}
	if l.dice.chance("ends", 0.5) {
		add(1+l.dice.upTo("ends", 3), "end", func(key string) {
			grace := pick(l.dice, key, int64(0), 1, 5, 30, 30, 100)
			l.note("a user ends the Pod with a grace of %d s", grace)
			l.store.end(grace)
		})
	}
	if l.dice.chance("replaced", 0.07) {
		add(1, "replace", l.replace)
	}
	slices.SortStableFunc(list, func(a, b event) int { return int(a.at - b.at) })
	return list
}

// changeImage changes the image of an app container.
func (l *life) changeImage(key string) {
	p := l.store.get()
	if p == nil || p.DeletionTimestamp != nil {
		return
	}
	p = p.DeepCopy()
	c := &p.Spec.Containers[l.dice.upTo(key, len(p.Spec.Containers))]
	c.Image = pick(l.dice, key, "image:1", "image:2")
	l.note("a user gives %s the image %s", c.Name, c.Image)
	l.store.put(p)
}

// tellOfObjects is what the kubelet does when a ConfigMap changes or a plugin comes.
func (l *life) tellOfObjects(string) {
	l.mu.Lock()
	p := l.process
	l.mu.Unlock()
	if p != nil {
		l.note("objects change")
		p.manager.Retry(func(*v1.Pod) bool { return true })
	}
}

// kill ends the process, if one runs.
func (l *life) kill(why string) {
	l.mu.Lock()
	p := l.process
	l.mu.Unlock()
	if p != nil {
		p.kill(why)
	}
}

// replace deletes the Pod's object without a grace, and creates another of its
// name.
func (l *life) replace(string) {
	l.note("a user replaces the Pod by another of its name")
	l.store.remove()
	next := l.newPod(2)
	l.note("it is %s", describe(next))
	l.store.put(next)
}

// runtimeDown lets the runtime be away for some time. Its containers go on.
func (l *life) runtimeDown(key string) {
	l.note("the runtime goes down")
	l.down.Store(true)
	l.mu.Lock()
	l.runtime.breakStream()
	l.mu.Unlock()
	time.AfterFunc(l.dice.spread("down "+key, 10*time.Millisecond, 30*time.Second), l.runtimeUp)
}

func (l *life) runtimeUp() {
	if l.down.Swap(false) {
		l.note("the runtime is up")
	}
}

// meddle ends or removes something behind the kubelet's back.
func (l *life) meddle(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runtime
	if len(r.sandboxes) == 0 || len(r.containers) == 0 {
		return
	}
	s, c := pick(l.dice, key, r.sandboxes...), pick(l.dice, key, r.containers...)
	switch l.dice.upTo(key+" how", 6) {
	case 0:
		l.note("somebody kills %s", c.id)
		c.exit(137, "OOMKilled")
	case 1:
		l.note("somebody removes %s", c.id)
		c.lost = true
		c.remove()
	case 2:
		l.note("%s dies", s.id)
		r.end(s)
	case 3:
		l.note("somebody removes %s", s.id)
		r.lose(s)
	case 4, 5:
		if c.running() {
			l.note("the runtime loses track of %s", c.id)
			c.unknown, c.doomed = true, true
			r.tell(c.sandbox, c.id)
		}
	}
}

// lose removes a sandbox behind the kubelet's back. The caller holds life.mu.
func (r *runtime) lose(s *sandbox) {
	for _, c := range r.containers {
		if c.sandbox == s {
			c.lost = true
		}
	}
	r.drop(s)
}

// reboot ends everything, and some runtimes forget everything.
func (l *life) reboot(key string) {
	l.note("the machine starts again")
	l.kill("by a reboot")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rebooted = time.Now()
	l.runtime.breakStream()
	forgets := l.dice.chance("forgets "+key, 0.4)
	for _, s := range slices.Clone(l.runtime.sandboxes) {
		if forgets {
			l.runtime.lose(s)
		} else {
			l.runtime.end(s)
		}
	}
	for what := range l.host.has {
		if len(what) > 7 && (what[:7] == "volumes" || what[:6] == "cgroup") {
			delete(l.host.has, what)
		}
	}
}

// describe says in a line what a Pod is like.
func describe(p *v1.Pod) string {
	text := fmt.Sprintf("Pod %s, restartPolicy %s, grace %d", p.UID, p.Spec.RestartPolicy, *p.Spec.TerminationGracePeriodSeconds)
	if limit := p.Spec.ActiveDeadlineSeconds; limit != nil {
		text += fmt.Sprintf(", for %d s", *limit)
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			text += ", " + c.Name + " of " + c.Image
			for _, probe := range []*v1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe != nil {
					text += " " + probe.Exec.Command[0]
				}
			}
			if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
				text += " postStart"
			}
			if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
				text += " preStop"
			}
		}
	}
	return text
}
