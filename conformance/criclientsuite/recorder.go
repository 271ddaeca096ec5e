package criclientsuite

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/relay"
)

// call is one call of the kubelet. Its messages must not be changed.
type call struct {
	n           int // index in the order of arrival
	method      string
	req, resp   proto.Message // resp is nil until the call has ended, and when it failed
	err         error
	begun       time.Time
	ended       time.Time // zero until then
	deadline    time.Time // zero for none
	pod         string    // the name that the suite gave the Pod, "" for a call about no Pod
	container   string    // its name in the Pod
	sandboxID   string
	containerID string
	logPlace    error // of CreateContainer: why its log's directory was not found at the call
}

// owner is what an id belongs to.
type owner struct{ pod, container, sandboxID string }

// recorder records every call between the kubelet and the runtime, and applies the
// faults that a rule has prepared.
type recorder struct {
	mu      sync.Mutex
	calls   []*call
	owners  map[string]owner // by the id of a sandbox, a container or an image
	refs    map[string]owner // by the name of an image
	faults  []*fault
	changed chan struct{} // closed and replaced at each change
}

func newRecorder() *recorder {
	return &recorder{owners: map[string]owner{}, refs: map[string]owner{}, changed: make(chan struct{})}
}

// fault changes what happens to some calls. Its functions may be nil.
type fault struct {
	method, pod, container string // "" is any
	// times is how often the fault happens; 0 means always.
	times int
	// before runs before the runtime gets the call; an error of it is the answer.
	before func(ctx context.Context, c *call) error
	// after may replace the answer of the runtime, which has carried out the call.
	after func(proto.Message, error) (proto.Message, error)
	// silent drops the Pod's events from the stream.
	silent bool
}

// inject prepares a fault; remove withdraws it.
func (r *recorder) inject(f *fault) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.faults = slices.DeleteFunc(r.faults, func(have *fault) bool { return have == f })
	}
}

// claim returns the faults that apply to the call.
func (r *recorder) claim(c *call) []*fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*fault
	for _, f := range slices.Clone(r.faults) {
		if f.silent || f.method != "" && f.method != c.method || f.pod != "" && f.pod != c.pod || f.container != "" && f.container != c.container {
			continue
		}
		all = append(all, f)
		if f.times == 1 {
			r.faults = slices.DeleteFunc(r.faults, func(have *fault) bool { return have == f })
		}
		if f.times > 0 {
			f.times--
		}
	}
	return all
}

func (r *recorder) hooks() relay.Hooks { return relay.Hooks{Unary: r.unary, Stream: r.stream} }

func (r *recorder) unary(ctx context.Context, wire *relay.Call, next relay.Next) (resp proto.Message, err error) {
	c := r.begin(ctx, wire)
	defer func() { r.end(c, resp, err) }()
	faults := r.claim(c)
	for _, f := range faults {
		if f.before == nil {
			continue
		}
		if err := f.before(ctx, c); err != nil {
			return nil, err
		}
	}
	resp, err = next(ctx)
	if err == nil {
		r.own(c, resp)
	}
	for _, f := range faults {
		if f.after != nil {
			resp, err = f.after(resp, err)
		}
	}
	return resp, err
}

func (r *recorder) stream(ctx context.Context, wire *relay.Call, send relay.Send, next relay.Stream) (err error) {
	c := r.begin(ctx, wire)
	defer func() { r.end(c, nil, err) }()
	for _, f := range r.claim(c) {
		if f.before != nil {
			if err := f.before(ctx, c); err != nil {
				return err
			}
		}
	}
	return next(ctx, func(m proto.Message) error {
		if r.silenced(m) {
			return nil
		}
		return send(m)
	})
}

// silenced reports whether a message is an event that a fault suppresses.
func (r *recorder) silenced(m proto.Message) bool {
	e, ok := m.(*runtimeapi.ContainerEventResponse)
	if !ok {
		return false
	}
	pod := podOf(e.GetPodSandboxStatus().GetLabels(), e.GetPodSandboxStatus().GetMetadata().GetName())
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.faults, func(f *fault) bool { return f.silent && f.pod == pod })
}

func (r *recorder) begin(ctx context.Context, wire *relay.Call) *call {
	c := &call{method: wire.Method, req: wire.Request, begun: time.Now()}
	if create, ok := wire.Request.(*runtimeapi.CreateContainerRequest); ok {
		_, c.logPlace = os.Stat(filepath.Dir(filepath.Join(create.GetSandboxConfig().GetLogDirectory(), create.GetConfig().GetLogPath())))
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.deadline = deadline
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attribute(c)
	c.n = len(r.calls)
	r.calls = append(r.calls, c)
	r.wake()
	return c
}

func (r *recorder) end(c *call, resp proto.Message, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.resp, c.err, c.ended = resp, err, time.Now()
	if err != nil {
		c.resp = nil
	}
	r.wake()
}

func (r *recorder) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// attribute determines which Pod, container and sandbox the call is about.
func (r *recorder) attribute(c *call) {
	c.sandboxID, c.containerID = textField(c.req, "pod_sandbox_id"), textField(c.req, "container_id")
	var of owner
	switch req := c.req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		of.pod = podOf(req.GetConfig().GetLabels(), req.GetConfig().GetMetadata().GetName())
	case *runtimeapi.CreateContainerRequest:
		of = r.owners[c.sandboxID]
		of.container = req.GetConfig().GetMetadata().GetName()
	case *runtimeapi.ImageStatusRequest:
		of = r.imageOwner(req.GetImage())
	case *runtimeapi.PullImageRequest:
		of = r.imageOwner(req.GetImage())
	case *runtimeapi.RemoveImageRequest:
		of = r.imageOwner(req.GetImage())
	default:
		of = r.owners[c.sandboxID]
		if c.containerID != "" {
			of = r.owners[c.containerID]
		}
	}
	c.pod, c.container = of.pod, of.container
	if c.sandboxID == "" {
		c.sandboxID = of.sandboxID
	}
}

func (r *recorder) imageOwner(spec *runtimeapi.ImageSpec) owner {
	if of, ok := r.refs[spec.GetImage()]; ok {
		return of
	}
	return r.owners[spec.GetImage()]
}

// claimImage assigns an image to a container, by name and by id.
func (r *recorder) claimImage(ref, pod, container string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refs[ref] = owner{pod: pod, container: container}
	r.owners[imageID(ref)] = r.refs[ref]
}

// own records the owner of the id in the runtime's answer.
func (r *recorder) own(c *call, resp proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch resp := resp.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		c.sandboxID = resp.GetPodSandboxId()
		r.owners[c.sandboxID] = owner{pod: c.pod, sandboxID: c.sandboxID}
	case *runtimeapi.CreateContainerResponse:
		c.containerID = resp.GetContainerId()
		r.owners[c.containerID] = owner{c.pod, c.container, c.sandboxID}
	}
}

// podOf returns the suite's name of a Pod, to which a kubelet may have appended its own.
func podOf(labels map[string]string, name string) string {
	if of, ok := labels[podLabel]; ok {
		return of
	}
	return name
}

// textField returns a string field of a message by its name, or "" if there is none.
func textField(m proto.Message, name protoreflect.Name) string {
	d := m.ProtoReflect().Descriptor().Fields().ByName(name)
	if d == nil || d.Kind() != protoreflect.StringKind || d.IsList() {
		return ""
	}
	return m.ProtoReflect().Get(d).String()
}

// seen returns the calls so far for which a condition holds, in order of arrival.
func (r *recorder) seen(such func(*call) bool) (found calls, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if such(c) {
			found = append(found, *c)
		}
	}
	return found, r.changed
}

// podOfSandbox returns the Pods of the sandboxes that the runtime created, by sandbox id.
func (r *recorder) podOfSandbox() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods := map[string]string{}
	for id, of := range maps.All(r.owners) {
		if of.sandboxID == id {
			pods[id] = of.pod
		}
	}
	return pods
}
