package runtime

import (
	"bytes"
	"log/slog"
	"sync"

	"github.com/nodekit-project/nodekit/cni"
)

// caller returns a Caller for one call of a plugin, which also has the writer for the
// stderr of executed plugins. What built-in plugins log goes to the network's log,
// with the subject of the call, and so do the lines of stderr unless OnStderr is set.
// done must be called after the call.
func (n *Network) caller(name string, env map[string]string) (c *cni.Caller, done func()) {
	log := n.config.Logger.With("plugin", name, "command", env["CNI_COMMAND"])
	if id := env["CNI_CONTAINERID"]; id != "" {
		log = log.With("container", id, "interface", env["CNI_IFNAME"])
	}
	out := &lines{log: log, tell: func(line string) { log.Info("a plugin wrote to its stderr", "line", line) }}
	if n.config.OnStderr != nil {
		out.tell = func(line string) { n.config.OnStderr(name, line) }
	}
	return &cni.Caller{Plugins: n.config.Builtin, Logger: log, Stderr: out}, out.flush
}

const (
	// maxLine bounds a line of a plugin's stderr, and maxLines the lines reported per
	// call: a talkative plugin must not fill the node's log.
	maxLine  = 2 << 10
	maxLines = 100
)

// lines reports line by line what is written to it. A plugin that left a descendant
// behind may still write after its call has ended.
type lines struct {
	log  *slog.Logger
	tell func(line string)

	mu    sync.Mutex
	rest  []byte // an unfinished line
	count int
}

// Write never fails.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		line, after, ended := bytes.Cut(b, []byte("\n"))
		l.rest = append(l.rest, line[:min(len(line), maxLine-len(l.rest))]...)
		if ended {
			l.say()
		}
		b = after
	}
	return n, nil
}

// flush reports an unfinished last line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say()
}

func (l *lines) say() {
	text := bytes.TrimSpace(l.rest)
	l.rest = l.rest[:0]
	if len(text) == 0 {
		return
	}
	l.count++
	switch {
	case l.count <= maxLines:
		l.tell(string(text))
	case l.count == maxLines+1:
		l.log.Warn("a plugin writes more to its stderr than is told of one call", "lines", maxLines)
	}
}
