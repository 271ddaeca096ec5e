package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

func orderRules() []rule {
	return []rule{
		relied("CRIC-ORD-001", "runs init containers one after the other, each to its end, and the others after them",
			"Pod", "Init containers run in order; each must succeed before the next is started, and all before the app containers are.", checkInitOrder),
		relied("CRIC-ORD-002", "starts no app container when an init container has failed for good",
			"Pod", "A Pod whose init container fails and is not restarted has failed.", checkInitFails),
		relied("CRIC-ORD-003", "runs an init container again that failed, where the Pod restarts",
			"Pod", "A failed init container is run again until it succeeds, unless restartPolicy is Never.", checkInitAgain),
		relied("CRIC-ORD-004", "starts a sidecar before the containers that it serves, and does not wait for its end",
			"Pod", "An init container with restartPolicy Always runs beside those after it.", checkSidecar),
	}
}

// ending makes a container end at once, with an exit code.
func ending(c v1.Container, code int) v1.Container {
	c.Command = []string{exitWord, strconv.Itoa(code)}
	return c
}

func never(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }

func checkInitOrder(ctx context.Context, l *lab) error {
	order := []string{"first", "second", "third"}
	s, err := l.running(ctx, func(p *v1.Pod) {
		for _, name := range order {
			p.Spec.InitContainers = append(p.Spec.InitContainers, ending(v1.Container{Name: name}, 0))
		}
	})
	if err != nil {
		return err
	}
	creates, starts := s.calls().of("CreateContainer"), s.calls().of("StartContainer")
	for i, name := range append(order, mainName) {
		if i >= len(creates) || creates[i].container != name {
			return fmt.Errorf("the containers were created in the order %v, want %v", creates, append(order, mainName))
		}
		if i == 0 {
			continue
		}
		// A container ends after its StartContainer has answered; only then may its
		// successor come.
		if before := starts.named(order[i-1]).good().last(); before == nil || creates[i].begun.Before(before.ended) {
			return fmt.Errorf("container %q was created before %q had run", name, order[i-1])
		}
	}
	if len(creates) != len(order)+1 {
		return fmt.Errorf("%d containers were created, want %d: %v", len(creates), len(order)+1, creates)
	}
	return nil
}

func checkInitFails(ctx context.Context, l *lab) error {
	s, err := l.pod(never, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{ending(v1.Container{Name: "first"}, 1)}
	})
	if err != nil {
		return err
	}
	if err := s.again(ctx, "first", 1); err != nil {
		return err
	}
	l.calm(ctx)
	if len(s.calls().of("CreateContainer").named(mainName)) > 0 {
		return errors.New("the app container was created, and the init container had failed")
	}
	return want("how often the init container was created", len(s.calls().of("CreateContainer").named("first")), 1)
}

func checkInitAgain(ctx context.Context, l *lab) error {
	s, err := l.pod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{ending(v1.Container{Name: "first"}, 1)}
	})
	if err != nil {
		return err
	}
	if err := s.again(ctx, "first", 2); err != nil {
		return err
	}
	if len(s.calls().of("CreateContainer").named(mainName)) > 0 {
		return errors.New("the app container was created, and the init container had failed")
	}
	return nil
}

func checkSidecar(ctx context.Context, l *lab) error {
	always := v1.ContainerRestartPolicyAlways
	s, err := l.running(ctx, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "sidecar", RestartPolicy: &always}, ending(v1.Container{Name: "init"}, 0)}
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"init", mainName} {
		served, sidecar := s.calls().of("CreateContainer").named(name).first(), s.calls().of("StartContainer").named("sidecar").good().first()
		if sidecar == nil || served == nil || served.begun.Before(sidecar.ended) {
			return fmt.Errorf("container %q was created before the sidecar was started", name)
		}
	}
	return s.single(ctx)
}
