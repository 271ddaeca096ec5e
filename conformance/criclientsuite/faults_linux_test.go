package criclientsuite_test

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The parts that faults are made of.

// edit edits the requests of one kind.
func edit[M proto.Message](change func(M)) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if m, ok := c.Request.(M); ok {
			change(m)
		}
		return nil, nil
	}}
}

// run edits the configs of new sandboxes.
func run(change func(*runtimeapi.PodSandboxConfig)) fault {
	return edit(func(r *runtimeapi.RunPodSandboxRequest) { change(r.Config) })
}

// create edits the configs of new containers.
func create(change func(*runtimeapi.ContainerConfig)) fault {
	return edit(func(r *runtimeapi.CreateContainerRequest) { change(r.Config) })
}

// secure edits the security contexts of new containers.
func secure(change func(*runtimeapi.LinuxContainerSecurityContext)) fault {
	return create(func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) })
}

// limit edits the resources of new containers.
func limit(change func(*runtimeapi.LinuxContainerResources)) fault {
	return create(func(c *runtimeapi.ContainerConfig) { change(c.Linux.Resources) })
}

// keep answers a method in the place of the runtime: the client does not call it.
func keep(method string, answer proto.Message) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == method {
			return answer, nil
		}
		return nil, nil
	}}
}

// giveUp lets a method fail from its second call on: the client does not try again.
func giveUp(method string) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == method && c.n > 1 {
			return nil, status.Error(codes.Unknown, "the mutant has given up")
		}
		return nil, nil
	}}
}

// keepFailing lets a method fail always: the client does not call it.
func keepFailing(method string) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == method {
			return nil, status.Error(codes.Unknown, "the mutant has given up")
		}
		return nil, nil
	}}
}

// before does something before a method is called.
func before(method string, do func(c *exchange)) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == method {
			do(c)
		}
		return nil, nil
	}}
}

// after does something when a method has succeeded.
func after(method string, do func(c *exchange, resp proto.Message)) fault {
	return fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.Method == method && err == nil {
			do(c, resp)
		}
		return resp, err
	}}
}

// again calls a method once more when it was called.
func again(method string) fault {
	return after(method, func(c *exchange, _ proto.Message) { _, _ = c.Invoke(c.ctx, c.Call) })
}

// hurry tries a call that fails a hundred times.
func hurry(method string) fault {
	return fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		for i := 0; c.Method == method && err != nil && i < 100; i++ {
			resp, err = c.Invoke(c.ctx, c.Call)
		}
		return resp, err
	}}
}

// pretend edits what the kubelet is told by a method.
func pretend[M proto.Message](change func(c *exchange, m M)) fault {
	return fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if m, ok := resp.(M); ok && err == nil {
			change(c, m)
		}
		return resp, err
	}}
}

// both does two faults' parts.
func both(a, b fault) fault {
	joined := fault{
		ask: func(c *exchange) (proto.Message, error) {
			for _, f := range []fault{a, b} {
				if f.ask == nil {
					continue
				}
				if answer, err := f.ask(c); answer != nil || err != nil {
					return answer, err
				}
			}
			return nil, nil
		},
		told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			for _, f := range []fault{a, b} {
				if f.told != nil {
					resp, err = f.told(c, resp, err)
				}
			}
			return resp, err
		},
		within: a.within, revived: a.revived,
	}
	if joined.within == nil {
		joined.within = b.within
	}
	if joined.revived == nil {
		joined.revived = b.revived
	}
	return joined
}

// endless takes the deadline from a method's calls.
func endless(method string) fault {
	return fault{within: func(c *exchange, ctx context.Context) (context.Context, context.CancelFunc) {
		if c.Method == method {
			ctx = context.WithoutCancel(ctx)
		}
		return context.WithCancel(ctx)
	}}
}

// punctual gives a call no longer than what it is about may take.
func punctual(method string, takes func(proto.Message) int64) fault {
	return fault{within: func(c *exchange, ctx context.Context) (context.Context, context.CancelFunc) {
		if c.Method == method {
			return context.WithTimeout(ctx, time.Duration(takes(c.Request))*time.Second)
		}
		return context.WithCancel(ctx)
	}}
}

// attempt makes a container, started, that the kubelet did not ask for.
func (c *exchange) attempt(container string, change func(*runtimeapi.CreateContainerRequest)) {
	r := c.creation(c.pod, c.container)
	if r == nil {
		r = proto.CloneOf(c.Request.(*runtimeapi.CreateContainerRequest))
	}
	r.Config.Metadata.Name = container
	if change != nil {
		change(r)
	}
	made, err := c.rt.CreateContainer(c.ctx, r)
	if err != nil {
		return
	}
	_, _ = c.rt.StartContainer(c.ctx, &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
}

// more adds to the attempt of a request, so that the runtime makes another object.
func more(r *runtimeapi.CreateContainerRequest) { r.Config.Metadata.Attempt += 5 }

// onExit does something, once a container, when the kubelet is told that it has ended.
func onExit(do func(c *exchange)) fault {
	return fault{told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		s, ok := resp.(*runtimeapi.ContainerStatusResponse)
		if ok && err == nil && s.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED && c.first("exit "+s.Status.Id) {
			do(c)
		}
		return resp, err
	}}
}
