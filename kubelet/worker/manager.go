package worker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Manager holds one worker per Pod. All its methods are safe for concurrent use, and
// return at once except Wait and WaitEmpty.
type Manager struct {
	config Config
	ctx    context.Context // ends all workers; Pods keep running

	mu      sync.Mutex
	workers map[types.UID]*worker
	names   map[types.NamespacedName]types.UID
	next    map[types.NamespacedName][]*v1.Pod // Pods that wait for an earlier one of their name
	left    chan struct{}                      // closed and replaced when a worker has ended its Pod
	group   sync.WaitGroup
}

// New returns a manager whose workers end with ctx.
func New(ctx context.Context, c Config) *Manager {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Decide == nil {
		c.Decide = pod.Decide
	}
	if c.OnStep == nil {
		c.OnStep = func(pod.Step) {}
	}
	if c.Event == nil {
		c.Event = func(pod.Event) {}
	}
	if c.NetworkReady == nil {
		c.NetworkReady = func(context.Context) error { return nil }
	}
	if c.Handler == nil {
		c.Handler = func(context.Context, *v1.Pod) (string, error) { return "", nil }
	}
	if c.Credentials == nil {
		c.Credentials = func(context.Context, *v1.Pod, string) ([]*runtimeapi.AuthConfig, error) { return nil, nil }
	}
	return &Manager{
		config: c, ctx: ctx, workers: map[types.UID]*worker{},
		names: map[types.NamespacedName]types.UID{}, next: map[types.NamespacedName][]*v1.Pod{},
		left: make(chan struct{}),
	}
}

// Update adds or updates a Pod. The Pod must not be changed afterwards.
func (m *Manager) Update(p *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.DeletionTimestamp != nil { // recorded before a Pod that may wait for its room is added
		m.config.Admission.Ending(p)
	}
	if w := m.workers[p.UID]; w != nil {
		w.update(p)
		return
	}
	name := nameOf(p)
	if _, taken := m.names[name]; taken {
		m.next[name] = append(without(m.next[name], p.UID), p)
		return
	}
	m.start(p)
}

// Gone reports that somebody else removed the Pod's object. What remains of the Pod is
// terminated without a grace period.
func (m *Manager) Gone(p *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if queue := without(m.next[nameOf(p)], p.UID); len(queue) > 0 {
		m.next[nameOf(p)] = queue
	} else {
		delete(m.next, nameOf(p))
	}
	if w := m.workers[p.UID]; w != nil {
		p = ended(p, time.Now())
		m.config.Admission.Ending(p)
		w.update(p)
	}
}

// Orphan terminates what remains of a Pod that has no object, even while another Pod of
// its name has one.
func (m *Manager) Orphan(id call.Pod) {
	p := ended(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name, UID: types.UID(id.UID)}}, time.Now())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[p.UID] == nil {
		m.run(p)
	}
}

// ended returns p with a grace period that is over.
func ended(p *v1.Pod, now time.Time) *v1.Pod {
	p = p.DeepCopy()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now}, new(int64)
	return p
}

// Wake makes the Pod's worker observe it again. It reports whether there is one.
func (m *Manager) Wake(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[uid]
	if w != nil {
		w.wakeUp()
	}
	return w != nil
}

// Retry makes the workers of the Pods concerned retry at once what they wait for, and
// update volumes that show objects. Other Pods keep their back-off. concerned must be
// quick.
func (m *Manager) Retry(concerned func(*v1.Pod) bool) {
	m.again(concerned, func(w *worker) *atomic.Bool { return &w.retry })
}

// RetryPulls makes the workers of the Pods concerned retry failed image pulls at once:
// one of their pull Secrets was created or changed. concerned must be quick.
func (m *Manager) RetryPulls(concerned func(*v1.Pod) bool) {
	m.again(concerned, func(w *worker) *atomic.Bool { return &w.retryPulls })
}

func (m *Manager) again(concerned func(*v1.Pod) bool, flag func(*worker) *atomic.Bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if concerned(w.spec.Load()) {
			flag(w).Store(true)
			w.wakeUp()
		}
	}
}

// WaitEmpty waits until nothing is left of any Pod. If ctx ends first, it returns ctx's
// error.
func (m *Manager) WaitEmpty(ctx context.Context) error {
	for {
		m.mu.Lock()
		n, left := len(m.workers), m.left
		m.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Held returns, for each Pod of which something is left, what blocks its removal as far
// as that is known, ordered by name.
func (m *Manager) Held() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, w := range m.workers {
		why := "no step of its end has failed, so one of them goes on"
		if held := w.held.Load(); held != nil {
			why = strings.ReplaceAll(*held, "\n", "; ")
		}
		all = append(all, fmt.Sprintf("Pod %s: %s", call.PodFrom(w.ctx), why))
	}
	slices.Sort(all)
	return all
}

// Wait waits until all workers have ended. They end with the context of New.
func (m *Manager) Wait() { m.group.Wait() }

// start starts a worker for the Pod, which takes its name. The caller holds m.mu.
func (m *Manager) start(p *v1.Pod) {
	m.names[nameOf(p)] = p.UID
	m.run(p)
}

// run starts a worker. The caller holds m.mu.
func (m *Manager) run(p *v1.Pod) {
	if m.ctx.Err() != nil {
		return
	}
	w := newWorker(m.ctx, &m.config, p)
	w.freed = m.freed
	m.workers[p.UID] = w
	m.group.Go(func() {
		for w.run() && !m.finished(w, p) {
		}
	})
}

// finished forgets a terminated Pod and starts the next one of its name. It returns
// false if the worker was woken meanwhile: nobody else would learn of what has appeared
// late.
func (m *Manager) finished(w *worker, p *v1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.woken() {
		return false
	}
	name := nameOf(p)
	delete(m.workers, p.UID)
	close(m.left)
	m.left = make(chan struct{})
	if m.names[name] != p.UID {
		return true // an orphan
	}
	delete(m.names, name)
	if queue := m.next[name]; len(queue) > 0 {
		m.next[name] = queue[1:]
		m.start(queue[0])
	} else {
		delete(m.next, name)
	}
	return true
}

func without(queue []*v1.Pod, uid types.UID) []*v1.Pod {
	return slices.DeleteFunc(queue, func(p *v1.Pod) bool { return p.UID == uid })
}

func nameOf(p *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}
