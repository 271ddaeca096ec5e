package devicesuite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/kubeletdir"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

const (
	defaultPatience = 30 * time.Second
	// restartDelay is after how long a plugin that ended is started again.
	restartDelay = 200 * time.Millisecond
	// hopeless is how often a plugin may end before it registers. A DaemonSet would
	// take most of an hour to get there.
	hopeless = 15
)

// bench is a kubelet with the plugin under test.
type bench struct {
	in       *conformance.Input[Target]
	root     string // plays /var/lib/kubelet
	patience time.Duration
	kubelet  *kubelet
	plugin   *supervisor.Process
	release  func() error
	ends     atomic.Int32 // how often the plugin ended by itself or was killed
	last     atomic.Pointer[ending]
	keeping  chan struct{}
	done     chan struct{}
}

// ending is how a life of the plugin ended, and what it had printed.
type ending struct{ how, printed string }

func start(in *conformance.Input[Target]) (*bench, error) {
	b := &bench{
		in: in, root: filepath.Join(in.TempDir, "kubelet"), patience: cmp.Or(in.Target.Patience, defaultPatience),
		release: func() error { return nil }, keeping: make(chan struct{}), done: make(chan struct{}),
	}
	k, err := startKubelet(b.dir(), b.patience)
	if err != nil {
		return nil, err
	}
	b.kubelet = k
	if err := b.launch(); err != nil {
		k.die()
		return nil, errors.Join(err, b.release())
	}
	go b.keep()
	return b, nil
}

func (b *bench) dir() string { return filepath.Join(b.root, "device-plugins") }

func (b *bench) launch() error {
	command, told := expand(b.in.Target, b.root)
	if !told {
		release, err := kubeletdir.Hold()
		if err != nil {
			return fmt.Errorf("the command does not take %s, and %s cannot be put in its place: %w", KubeletDir, kubeletdir.Path, err)
		}
		b.release = release
		command.Enter = kubeletdir.Enter(b.root)
	}
	var err error
	b.plugin, err = supervisor.Start(command)
	return err
}

// expand returns the command with KubeletDir replaced, and whether it occurs.
func expand(t Target, root string) (command supervisor.Command, told bool) {
	replace := func(list []string) []string {
		out := slices.Clone(list)
		for i := range out {
			told = told || strings.Contains(out[i], KubeletDir)
			out[i] = strings.ReplaceAll(out[i], KubeletDir, root)
		}
		return out
	}
	words, env := replace(t.Exec), replace(t.Env)
	return supervisor.Command{Path: words[0], Args: words[1:], Env: append(os.Environ(), env...)}, told
}

// keep starts the plugin again whenever it ends, as a DaemonSet does, until
// keeping is closed.
func (b *bench) keep() {
	defer close(b.done)
	for {
		select {
		case <-b.keeping:
			return
		case <-b.plugin.Done():
		}
		b.last.Store(&ending{b.plugin.Ending(), b.plugin.LifeTail()})
		b.ends.Add(1)
		select {
		case <-b.keeping:
			return
		case <-time.After(restartDelay):
		}
		if err := b.plugin.Restart(); err != nil {
			b.in.Log.Error("starting the plugin again", "err", err)
			return
		}
	}
}

// letGo stops keeping the plugin, which is left as it is.
func (b *bench) letGo() {
	select {
	case <-b.keeping:
	default:
		close(b.keeping)
	}
	<-b.done
}

func (b *bench) stop() error {
	b.letGo()
	b.plugin.Kill()
	b.kubelet.die()
	return b.release()
}

// explain adds what an author needs to understand a failure.
func (b *bench) explain(err error) error {
	if status.Code(err) == codes.Unavailable { // it may just have died of the call
		for range 10 {
			if b.last.Load() != nil {
				break
			}
			time.Sleep(restartDelay / 10)
		}
	}
	text := fmt.Sprintf("the plugin is %s", b.plugin)
	tail := strings.TrimSpace(b.plugin.LifeTail())
	if last := b.last.Load(); last != nil {
		text += fmt.Sprintf("; it ended %d times, the last time with: %s", b.ends.Load(), last.how)
		tail = cmp.Or(tail, strings.TrimSpace(last.printed)) // it may have been started again just now
	}
	if len(tail) > 2000 {
		tail = "..." + tail[len(tail)-2000:]
	}
	if tail != "" {
		text += "; it printed last:\n" + tail
	}
	return fmt.Errorf("%w\n%s", err, text)
}

// await returns the next registration that a kubelet accepts, of the given resource
// unless it is empty.
func (b *bench) await(ctx context.Context, resource string) (*registered, error) {
	began, timeout := time.Now(), time.After(b.patience)
	look := time.NewTicker(restartDelay)
	defer look.Stop()
	ends := b.ends.Load()
	what := "the plugin"
	if resource != "" {
		what = fmt.Sprintf("resource %q", resource)
	}
	var refused error
	for {
		select {
		case r := <-b.kubelet.arrived:
			if r.refused != nil {
				refused = r.refused
			} else if resource == "" || r.request.GetResourceName() == resource {
				return r, nil
			}
		case <-look.C:
			if err := b.lost(ends); err != nil {
				return nil, err
			}
		case <-timeout:
			return nil, b.unregistered(what, began, refused)
		case <-ctx.Done(): // the rule's time may be shorter than the patience
			return nil, errors.Join(b.unregistered(what, began, refused), gaveUp(ctx))
		}
	}
}

// unregistered returns the error for a registration that never came where it was
// awaited, or why one that came was refused.
func (b *bench) unregistered(what string, began time.Time, refused error) error {
	if refused != nil {
		return fmt.Errorf("%s tried to register and was refused: %w", what, refused)
	}
	if in := b.kubelet.calling.Load(); in != nil {
		return fmt.Errorf("%s calls Register for %q, and serves nothing at the endpoint %q that it names", what, in.GetResourceName(), in.GetEndpoint())
	}
	where := filepath.Join(b.dir(), kubeletSocket)
	if _, told := expand(b.in.Target, b.root); !told {
		where = filepath.Join(kubeletdir.Path, "device-plugins", kubeletSocket)
	}
	return fmt.Errorf("%s did not register within %s: nobody called Register at %s", what, waited(began), where)
}

// waited returns how long something was awaited, rounded for people.
func waited(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Millisecond) }

// expired reports whether a call failed because the time of ctx is over. The plugin's
// side of gRPC knows that deadline too, and may be the first to give up.
func expired(ctx context.Context, err error) bool {
	if status.Code(err) == codes.DeadlineExceeded {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // it is the plugin's own answer
		}
	}
	return ctx.Err() != nil
}

// gaveUp returns why a wait ended before its patience did; nil if the rule's time is
// over, which the report says itself.
func gaveUp(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return ctx.Err()
}

// lost returns an error once the plugin has ended too often since the count before.
func (b *bench) lost(before int32) error {
	if n := b.ends.Load() - before; n >= hopeless {
		return fmt.Errorf("the plugin ended %d times, each time it was started, and did not register", n)
	}
	return nil
}

// ready returns a registration with an open stream and its first list.
func (b *bench) ready(ctx context.Context, resource string) (*registered, *stream, []*pluginapi.Device, error) {
	r, err := b.await(ctx, resource)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := r.watch(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	list, err := s.next(ctx, b.patience)
	return r, s, list, err
}

// readyAgain waits for a registration and a list whose ids are like before. An
// earlier list may still be incomplete, and a registration whose stream ends may be
// that of an instance that died.
func (b *bench) readyAgain(ctx context.Context, resource string, before []string, like func(before, after []string) bool) (*stream, error) {
	deadline := time.Now().Add(b.patience)
	var got []string
	for {
		_, s, list, err := b.ready(ctx, resource)
		for err == nil {
			if got = idsOf(list); like(before, got) {
				return s, nil
			}
			list, err = s.next(ctx, time.Until(deadline).Round(time.Millisecond))
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			if got != nil {
				err = fmt.Errorf("resource %q has devices %q now, and had %q before: %w", resource, got, before, err)
			}
			return nil, err
		}
	}
}

// idsOf returns the ids, sorted.
func idsOf(devices []*pluginapi.Device) []string {
	out := []string{}
	for _, d := range devices {
		out = append(out, d.GetID())
	}
	slices.Sort(out)
	return out
}

// restart kills the kubelet and starts another one after a while.
func (b *bench) restart(ctx context.Context, after time.Duration) error {
	b.kubelet.die()
	if err := pause(ctx, after); err != nil {
		return err
	}
	k, err := startKubelet(b.dir(), b.patience)
	if err != nil {
		return err
	}
	b.kubelet = k
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
