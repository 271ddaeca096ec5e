package runtime

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	// readyFor is how long a successful STATUS is reused: a kubelet asks every 5 s
	// and before every Pod.
	readyFor = 4 * time.Second
	// failedFor is the same for a failed STATUS, so that recovery is noticed soon.
	failedFor = time.Second
	// statusWithin bounds STATUS of all plugins together.
	statusWithin = 10 * time.Second
)

// Status reports whether the network can serve an Attach now: there is a valid
// configuration, its plugins exist and, from version 1.1.0 on, STATUS of each succeeds.
// If there is no valid configuration, the error is fault.Unavailable and says what is
// wrong with the existing files.
//
// Status is meant to be polled. It reads the directories every time. Only one caller at
// a time runs STATUS of the plugins, on behalf of all; its answer is reused for a few
// seconds, until the configuration changes or an Attach fails. A plugin whose STATUS
// does not end is fault.Unavailable after 10 s and blocks nothing else, even if it is
// built in and ignores its context.
func (n *Network) Status(ctx context.Context) error {
	l, err := n.load()
	if err != nil {
		return err
	}
	if err := n.find(l); err != nil {
		return err
	}
	if !cni.AtLeast(l.Version, "1.1.0") {
		return nil
	}
	question, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return n.status.ask(ctx, string(question), func(ctx context.Context) error { return n.runStatus(ctx, l) })
}

// find looks for the plugins without calling any.
func (n *Network) find(l *list) error {
	for _, p := range l.Plugins {
		if n.config.Builtin[p.kind()] != nil {
			continue
		}
		if _, err := cni.Find(p.kind(), n.config.BinDirs); err != nil {
			return fault.Unavailable.Wrap(err)
		}
	}
	return nil
}

// lacking returns the types of the list's IPAM plugins that do not exist.
func (n *Network) lacking(l *list) []string {
	var types []string
	for _, p := range l.Plugins {
		if kind := p.ipam(); kind != "" && !n.has(kind) {
			types = append(types, kind)
		}
	}
	return types
}

// has reports whether a plugin of that type exists.
func (n *Network) has(kind string) bool {
	_, err := cni.Find(kind, n.config.BinDirs)
	return err == nil || n.config.Builtin[kind] != nil
}

func (n *Network) runStatus(ctx context.Context, l *list) error {
	for _, p := range l.Plugins {
		config, err := base(l, p)
		if err != nil {
			return err
		}
		stdin, err := encode(config)
		if err != nil {
			return err
		}
		n.status.asking(p.kind())
		if _, err := n.call(ctx, p, n.env(cni.CmdStatus, Attachment{}), stdin); err != nil {
			return err
		}
	}
	return nil
}

// status keeps the last answer and runs one query at a time. The zero value is ready
// to use.
type status struct {
	mu      sync.Mutex
	last    answer
	running *flight // nil when nobody asks
	plugin  string  // that is asked, or was last
}

type answer struct {
	question string
	err      error
	at       time.Time
}

type flight struct {
	done chan struct{} // closed once answer is set
	end  time.Time     // when nobody waits any longer
	stop context.CancelFunc
	answer
}

func (s *status) ask(ctx context.Context, question string, run func(context.Context) error) error {
	for {
		f, last := s.join(ctx, question, run)
		if f == nil {
			return last.err
		}
		late := time.NewTimer(time.Until(f.end))
		defer late.Stop()
		select {
		case <-f.done:
			if f.question == question {
				return f.err
			}
		case <-ctx.Done():
			return fault.Unavailable.Errorf("waiting for STATUS of plugin %q: %w", s.asked(), context.Cause(ctx))
		case <-late.C:
			return fault.Unavailable.Errorf("STATUS of plugin %q does not end", s.asked())
		}
	}
}

// asking notes the plugin that is asked, for those who wait in vain.
func (s *status) asking(plugin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plugin = plugin
}

// asked returns the plugin that is asked, or was last.
func (s *status) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plugin
}

// join returns the flight that will answer, of whatever question, or the answer
// that still holds.
func (s *status) join(ctx context.Context, question string, run func(context.Context) error) (*flight, answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return s.running, answer{}
	}
	if s.last.question == question && s.last.fresh() {
		return nil, s.last
	}
	ctx, stop := context.WithTimeout(call.WithPod(context.WithoutCancel(ctx), call.Pod{}), statusWithin)
	f := &flight{done: make(chan struct{}), end: time.Now().Add(statusWithin + time.Second), stop: stop, answer: answer{question: question}}
	s.running = f
	go func() {
		defer stop()
		f.err = run(ctx)
		f.at = time.Now()
		s.mu.Lock()
		s.last, s.running = f.answer, nil
		s.mu.Unlock()
		close(f.done)
	}()
	return f, answer{}
}

func (a answer) fresh() bool {
	if a.err != nil {
		return time.Since(a.at) < failedFor
	}
	return time.Since(a.at) < readyFor
}

// forget makes the next Status ask the plugins.
func (s *status) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = answer{}
}

// close cancels the running query.
func (s *status) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.running.stop()
	}
}
