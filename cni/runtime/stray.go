package runtime

import (
	"context"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// strays are calls of built-in plugins that did not end when they were canceled.
// Nothing can end them, and the container's lock must not wait for them. The zero
// value is ready to use.
type strays struct {
	mu   sync.Mutex
	left map[stray]<-chan struct{} // closed when the call has ended
}

// stray identifies a call of a plugin; calls for the network have no attachment.
type stray struct {
	plugin, command string
	attachment      cni.Attachment
}

func strayOf(plugin, command string, env map[string]string) stray {
	return stray{plugin, command, cni.Attachment{ContainerID: env["CNI_CONTAINERID"], IfName: env["CNI_IFNAME"]}}
}

// bounded makes a call and returns when it has ended, or cni.Grace after ctx has. An
// abandoned call blocks others of the same plugin and attachment, which it would
// disturb as soon as it continues. Only DEL is made nevertheless, once: nothing else
// can release what a hanging ADD took.
func (s *strays) bounded(ctx context.Context, c stray, call func(context.Context) ([]byte, error)) ([]byte, error) {
	if other := s.blocks(c); other != "" {
		// Not retried: it is unlikely to pass, and each retry would cost a DEL.
		return nil, &settled{fault.Unavailable.Errorf("an earlier %s of the plugin was given up and still runs", other)}
	}
	type answer struct {
		stdout []byte
		err    error
	}
	got, ended := make(chan answer, 1), make(chan struct{})
	go func() {
		defer close(ended)
		a := answer{err: cni.Errorf(cni.CodePanic, "it ended without a result (runtime.Goexit)")} // unless it returns
		defer func() { got <- a }()
		a.stdout, a.err = call(ctx)
	}()
	select {
	case a := <-got:
		return a.stdout, a.err
	case <-ctx.Done():
	}
	late := time.NewTimer(cni.Grace)
	defer late.Stop()
	select {
	case a := <-got:
		return a.stdout, a.err
	case <-late.C:
	}
	s.add(c, ended)
	return nil, fault.Unavailable.Errorf("it was told to end and did not: %w", context.Cause(ctx))
}

func (s *strays) add(c stray, ended <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == nil {
		s.left = map[stray]<-chan struct{}{}
	}
	s.left[c] = ended
}

// blocks returns the command of a stray during which the call must not be made, or
// "".
func (s *strays) blocks(c stray) (command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, ended := range s.left {
		select {
		case <-ended:
			delete(s.left, other)
			continue
		default:
		}
		alike := other.plugin == c.plugin && other.attachment == c.attachment
		either := c.command == cni.CmdDel || c.attachment == cni.Attachment{} // STATUS does not wait for a GC
		if alike && (other.command == c.command || !either) {
			command = other.command
		}
	}
	return command
}
