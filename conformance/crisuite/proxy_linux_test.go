package crisuite_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/relay"
)

// fault is what a mutant does on the way between the suite and a runtime without fault.
// Its functions may be nil.
type fault struct {
	// request edits a request. With an error, or with an answer, the runtime is not asked.
	request func(c *exchange, req proto.Message) (answer proto.Message, err error)
	// answer edits what the runtime answered to a call.
	answer func(c *exchange, resp proto.Message, err error) (proto.Message, error)
	// streamed edits one message of a stream, and returns those that are sent instead.
	streamed func(c *exchange, m proto.Message) []proto.Message
	// delivered is called for each message of a stream, and calls send.
	delivered func(c *exchange, send func() error) error
	// plugged is asked about a call between the runtime and an NRI plugin. deaf says that
	// plugins cannot connect.
	plugged func(c *plugged) (any, error)
	deaf    bool
	// open is called when the proxy starts. again is true when it did before.
	open func(p *proxy)
	// sees is a part of what the rule must say of the mutant. Empty means that
	// whatever it says is about the fault.
	sees string
}

// seen is a fault with what the rule must see of it.
func seen(text string, f fault) fault {
	f.sees = text
	return f
}

// exchange is one call through the proxy.
type exchange struct {
	*proxy
	ctx    context.Context
	method string // "RunPodSandbox"
	req    proto.Message
	calls  int // of this method with this request, this one included
}

// proxy passes all calls on to a runtime, and lets a fault see them.
type proxy struct {
	fault
	rt    runtimeapi.RuntimeServiceClient
	im    runtimeapi.ImageServiceClient
	root  string
	again bool
	// plugins connect at the socket nri, and innerNRI is the runtime's. Empty means that
	// it has none.
	nri, innerNRI string

	mu     sync.Mutex
	calls  map[string]int
	notes  map[string]any // of the fault
	flight map[string]int
}

// serveProxy serves on a socket until ctx ends.
func serveProxy(ctx context.Context, p *proxy, inner, endpoint string) error {
	r, err := relay.New("unix://"+inner, relay.Hooks{Unary: p.unary, Stream: p.stream})
	if err != nil {
		return err
	}
	defer r.Close()
	p.rt, p.im = runtimeapi.NewRuntimeServiceClient(r.Conn()), runtimeapi.NewImageServiceClient(r.Conn())
	p.calls, p.notes, p.flight = map[string]int{}, map[string]any{}, map[string]int{}
	if p.open != nil {
		p.open(p)
	}
	stop, err := r.Serve(endpoint)
	if err != nil {
		return err
	}
	if p.nri != "" && !p.deaf {
		err = p.serveNRI(ctx, p.innerNRI, p.nri)
	}
	<-ctx.Done()
	return errors.Join(err, stop())
}

// begin counts a call, and asks the fault for an answer in the place of the runtime's.
func (p *proxy) begin(ctx context.Context, call *relay.Call) (c *exchange, answer proto.Message, err error) {
	key := call.Method + fmt.Sprint(call.Request)
	p.mu.Lock()
	p.calls[key]++
	c = &exchange{proxy: p, ctx: ctx, method: call.Method, req: call.Request, calls: p.calls[key]}
	p.mu.Unlock()
	if p.request != nil {
		answer, err = p.request(c, c.req)
	}
	return c, answer, err
}

func (p *proxy) unary(ctx context.Context, call *relay.Call, next relay.Next) (proto.Message, error) {
	c, answer, err := p.begin(ctx, call)
	if err != nil || answer != nil {
		return answer, err
	}
	answer, err = next(ctx)
	if p.answer != nil {
		answer, err = p.answer(c, answer, err)
	}
	return answer, err
}

func (p *proxy) stream(ctx context.Context, call *relay.Call, send relay.Send, next relay.Stream) error {
	c, answer, err := p.begin(ctx, call)
	if err != nil {
		return err
	}
	if answer != nil {
		return send(answer)
	}
	return next(ctx, func(m proto.Message) error {
		all := []proto.Message{m}
		if p.streamed != nil {
			all = p.streamed(c, m)
		}
		for _, m := range all {
			if err := p.deliver(c, func() error { return send(m) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *proxy) deliver(c *exchange, send func() error) error {
	if p.delivered == nil {
		return send()
	}
	return p.delivered(c, send)
}

// once makes a note of the fault's, and reports whether it is the first of that name.
func (p *proxy) once(name string) bool { return p.note(name, true) == nil }

// note puts a value under a name, unless there is one, and returns what was there.
func (p *proxy) note(name string, value any) (before any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = p.notes[name]
	if before == nil {
		p.notes[name] = value
	}
	return before
}

// count counts up under a name.
func (p *proxy) count(name string, by int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flight[name] += by
	return p.flight[name]
}

// The parts that faults are made of.

// edit edits the requests of one kind.
func edit[M proto.Message](change func(M)) fault {
	return fault{request: func(_ *exchange, req proto.Message) (proto.Message, error) {
		if m, ok := req.(M); ok {
			change(m)
		}
		return nil, nil
	}}
}

// tell edits the answers of one kind.
func tell[M proto.Message](change func(M)) fault {
	return fault{answer: func(_ *exchange, resp proto.Message, err error) (proto.Message, error) {
		if m, ok := resp.(M); ok && err == nil {
			change(m)
		}
		return resp, err
	}}
}

// send edits the messages of streams of one kind, and may leave them out or double them.
func send[M proto.Message](change func(M) []proto.Message) fault {
	return fault{streamed: func(_ *exchange, m proto.Message) []proto.Message {
		if m, ok := m.(M); ok {
			return change(m)
		}
		return []proto.Message{m}
	}}
}

// refuse answers a method with a code, where such holds. Nil means always.
func refuse(method string, code codes.Code, such func(*exchange) bool) fault {
	return fault{request: func(c *exchange, _ proto.Message) (proto.Message, error) {
		if c.method == method && (such == nil || such(c)) {
			return nil, status.Error(code, "the mutant does not want to")
		}
		return nil, nil
	}}
}

func second(c *exchange) bool { return c.calls > 1 }

func afterKill(c *exchange) bool { return c.again }

const unknownID = "0000000000000000000000000000000000000000000000000000000000000bad"

// swallow answers a method without the runtime, where such holds.
func swallow(answer proto.Message, method string, such func(*exchange) bool) fault {
	return fault{request: func(c *exchange, _ proto.Message) (proto.Message, error) {
		if c.method == method && (such == nil || such(c)) {
			return answer, nil
		}
		return nil, nil
	}}
}

// whitewash answers a method with success where the runtime failed.
func whitewash(method string, answer proto.Message) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.method == method && err != nil {
			return answer, nil
		}
		return resp, err
	}}
}

// recode answers a method's errors with another code.
func recode(method string, code codes.Code) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.method == method && err != nil {
			return nil, status.Error(code, "the mutant hides the code")
		}
		return resp, err
	}}
}

// both does two faults' parts.
func both(a, b fault) fault {
	return fault{
		request: func(c *exchange, req proto.Message) (proto.Message, error) {
			for _, f := range []fault{a, b} {
				if f.request == nil {
					continue
				}
				if answer, err := f.request(c, req); answer != nil || err != nil {
					return answer, err
				}
			}
			return nil, nil
		},
		answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			for _, f := range []fault{a, b} {
				if f.answer != nil {
					resp, err = f.answer(c, resp, err)
				}
			}
			return resp, err
		},
	}
}

// create edits the configs of new containers.
func create(change func(*runtimeapi.ContainerConfig)) fault {
	return edit(func(r *runtimeapi.CreateContainerRequest) {
		if r.Config != nil && r.Config.Linux != nil {
			change(r.Config)
		}
	})
}

// runSandbox edits the configs of new sandboxes.
func runSandbox(change func(*runtimeapi.PodSandboxConfig)) fault {
	return edit(func(r *runtimeapi.RunPodSandboxRequest) {
		if r.Config.GetLinux() != nil {
			change(r.Config)
		}
	})
}
