package runtime

import (
	"bytes"
	"log/slog"
	"sync"

	"github.com/nodekit-project/nodekit/cni"
)

// caller calls built-in plugins for one call, and has the writer for the stderr
// of those that are executed. What built-in ones log ends in the network's log,
// with what the call is about, and so do the lines of stderr unless somebody
// asked for them. done is called when the call has ended.
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
	// maxLine bounds a line of a plugin's stderr, and maxLines how many are told
	// of one call: what a plugin babbles must not fill the node's log.
	maxLine  = 2 << 10
	maxLines = 100
)

// lines tells what is written to it line by line. A plugin that has left a
// descendant behind may write when its call has ended.
type lines struct {
	log  *slog.Logger
	tell func(line string)

	mu    sync.Mutex
	rest  []byte // of a line whose end is not there yet
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

// flush tells a last line without an end.
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
