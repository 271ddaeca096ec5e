package simulation_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/worker"
)

const (
	// settles is how long everything works before a Pod is looked at: longer than
	// the longest back-off.
	settles = 6 * time.Minute
	// reboots is the least that a reboot takes.
	reboots = 2 * time.Second
	// diaryMost bounds the diary of a life that does not come to rest.
	diaryMost = 20000
)

// life is one simulated life.
type life struct {
	seed   uint64
	dice   *dice
	temper temper
	ways   map[string]way // by container name; fixed once the Pods are made
	// rejected: the Pod can never run. Fixed.
	rejected bool
	mutate   func(*worker.Config) // nil for the kubelet as it is
	begun    time.Time
	quiet    atomic.Bool // nothing goes wrong any more
	down     atomic.Bool // the runtime does not answer
	over     atomic.Bool

	mu      sync.Mutex // guards what the following point to, and process
	runtime *runtime
	store   *store
	host    *host
	rules   *rules
	process *process // nil while none runs
	deaths  int
	// rebooted is when the machine last did.
	rebooted time.Time

	book   sync.Mutex // guards what follows
	diary  []string
	broken []string // the rules that were broken, with what happened
	counts counts
}

// counts bounds how much the kubelet asks for.
type counts struct {
	since         time.Time
	writes, reads int
	all           int
}

// live runs a life to its end and returns it.
func live(t *testing.T, seed uint64, mutate func(*worker.Config)) (l *life) {
	synctest.Test(t, func(*testing.T) {
		l = newLife(seed, mutate)
		l.live()
	})
	return l
}

func newLife(seed uint64, mutate func(*worker.Config)) *life {
	l := &life{seed: seed, dice: newDice(seed), ways: map[string]way{}, mutate: mutate, begun: time.Now()}
	l.temper = newTemper(l.dice)
	l.rejected = l.dice.chance("rejected", 0.02)
	l.runtime, l.store = newRuntime(l), &store{life: l}
	l.host = &host{life: l, has: map[string]bool{}}
	l.rules = &rules{life: l, pods: map[types.UID]*record{}}
	return l
}

// live plays the script, lets everything settle, ends the Pod and looks at what
// is left.
func (l *life) live() {
	first := l.newPod(1)
	l.note("a life of temper %q: %s", l.temper.name, describe(first))
	l.store.put(first)
	var group sync.WaitGroup
	group.Go(l.supervise)
	for _, e := range l.script() {
		time.Sleep(time.Until(l.begun.Add(e.at)))
		e.do()
	}
	time.Sleep(time.Until(l.begun.Add(l.temper.span)))
	l.note("from now on everything works")
	l.quiet.Store(true)
	l.runtimeUp()
	time.Sleep(settles)
	l.mu.Lock()
	l.rules.settled()
	l.mu.Unlock()
	l.endAndWait()
	time.Sleep(time.Minute)
	l.mu.Lock()
	l.rules.left()
	process := l.process
	l.mu.Unlock()
	l.over.Store(true)
	process.kill("the life is over")
	group.Wait()
}

// endAndWait ends the Pod, if there is still one, and waits until it is gone.
func (l *life) endAndWait() {
	p := l.store.get()
	if p == nil {
		return
	}
	l.note("the Pod shall end")
	l.store.end(*p.Spec.TerminationGracePeriodSeconds)
	limit := time.Now().Add(3 * time.Minute)
	for l.store.get() != nil {
		if time.Now().After(limit) {
			l.violate("converges", "the Pod does not end")
			return
		}
		time.Sleep(time.Second)
	}
}

// slow returns the most that half of a call takes: most, or sometimes extreme.
func (l *life) slow(key string, most, extreme time.Duration) time.Duration {
	if !l.quiet.Load() && l.dice.chance("slow "+key, 0.03) {
		return extreme
	}
	return most
}

// note writes a line into the diary.
func (l *life) note(format string, args ...any) {
	l.book.Lock()
	defer l.book.Unlock()
	if len(l.diary) < diaryMost {
		l.diary = append(l.diary, fmt.Sprintf("%12.6f ", time.Since(l.begun).Seconds())+fmt.Sprintf(format, args...))
	}
}

// violate notes that a rule is broken.
func (l *life) violate(rule, format string, args ...any) {
	l.note("BROKEN: "+rule+": "+format, args...)
	l.book.Lock()
	defer l.book.Unlock()
	if len(l.broken) < 100 {
		l.broken = append(l.broken, rule+": "+fmt.Sprintf(format, args...))
	}
}

// What a Pod may ask for within a second. Probes of three containers take 30
// calls at most, and a look at a Pod with nine instances 13.
const (
	writesMost = 80
	readsMost  = 800
)

// count counts a call.
func (l *life) count(reading bool) {
	l.book.Lock()
	c := &l.counts
	c.all++
	if time.Since(c.since) > time.Second {
		c.since, c.writes, c.reads = time.Now(), 0, 0
	}
	if reading {
		c.reads++
	} else {
		c.writes++
	}
	tooMany := c.writes == writesMost || c.reads == readsMost
	writes, reads, restless := c.writes, c.reads, c.all > 300000
	l.book.Unlock()
	if tooMany {
		l.violate("bounded", "%d calls that change something and %d that look within a second", writes, reads)
	}
	if restless {
		panic(l.report() + "the life does not come to rest")
	}
}

// report says how the life went, and how to repeat it.
func (l *life) report() string {
	l.book.Lock()
	defer l.book.Unlock()
	text := fmt.Sprintf("seed %d broke rules:\n  %s\nrepeat it: go test ./kubelet/simulation -run TestOneLife -seed %d -v",
		l.seed, strings.Join(l.broken, "\n  "), l.seed)
	return text
}
