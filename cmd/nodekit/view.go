package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// view is the output of `nodekit run`: one line for each step of a Pod's life, and the
// output of containers and plugins, prefixed with its source. Whole lines are written
// at a time, from any goroutine.
type view struct {
	mu   sync.Mutex
	w    io.Writer
	many bool // several Pods: each line names its Pod
	// unread is called when the output cannot be written any more.
	unread func()
	seen   map[string]bool
	// network is the time that CNI plugins took, by Pod UID.
	network map[string]time.Duration
	pulls   map[string]*download // by image
}

func newView(w io.Writer, pods int, unread func()) *view {
	return &view{
		w: w, many: pods > 1, unread: unread,
		seen: map[string]bool{}, network: map[string]time.Duration{}, pulls: map[string]*download{},
	}
}

// call records the time of the network's plugins: it is part of the sandbox's time, and
// not a separate step.
func (v *view) call(_ context.Context, c call.Call) {
	if c.Family == "cni" && c.Method == "ADD" {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.network[c.Pod.UID] += c.Took
	}
}

// waits prints that a call has not been answered yet, because nothing else would be
// shown until its timeout. It does not repeat that for retries.
func (v *view) waits(_ context.Context, c call.Call) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case c.Method == "StopContainer", c.Method == "ExecSync":
		return // they take what the Pod's processes take
	case c.Method == "PullImage" && len(v.pulls) > 0:
		return // the runtime shows how far it is
	}
	subject := "node"
	if !c.Pod.IsZero() {
		subject = c.Pod.Name
	}
	limit := "which may take any time"
	if c.Limit > 0 {
		limit = fmt.Sprintf("which may take %v", c.Limit.Round(time.Second))
	}
	text := fmt.Sprintf("%9s  %-9s  %s  no answer yet to %s of %s, %s\n", took(c.Took.Round(time.Second)), pod.StepWait, subject, c.Method, calledOf(c), limit)
	if key := c.Pod.UID + text; !v.seen[key] {
		v.seen[key] = true
		v.print(text)
	}
}

// calledOf names the plugin of a call.
func calledOf(c call.Call) string {
	if c.Family == "cri" {
		return "the runtime" // there is one, and its socket says nothing
	}
	kinds := map[string]string{"cni": "CNI plugin", "csi": "CSI driver", "deviceplugin": "device plugin"}
	return kinds[c.Family] + " " + c.Plugin
}

// step prints a step of a Pod. A waiting Pod is reported once for each reason.
func (v *view) step(s pod.Step) {
	v.mu.Lock()
	defer v.mu.Unlock()
	subject := s.Name
	switch {
	case v.many:
		subject = strings.TrimSpace(s.Pod.Name + " " + subject)
	case subject == "":
		subject = s.Pod.Name
	}
	if s.What == pod.StepNetwork {
		s.Took = v.network[s.Pod.UID]
	}
	if (s.What == pod.StepImage || s.What == pod.StepSandbox) && s.Err != nil {
		return // the Pod waits for it, and says so
	}
	if s.What == pod.StepWait {
		key := subject + ids.ReplaceAllString(s.Err.Error(), "") // each try has an id of its own
		if v.seen[key] {
			return
		}
		v.seen[key] = true
	}
	text := subject
	if s.Err != nil {
		text = fmt.Sprintf("%s  %s", subject, inLine(s.Err))
	}
	v.print(fmt.Sprintf("%9s  %-9s  %s\n", took(s.Took), s.What, text))
}

// ids matches the IDs of sandboxes and containers: the whole ID, and the prefix by
// which people tell them apart.
var ids = regexp.MustCompile(`\b([0-9a-f]{12})[0-9a-f]{52}\b`)

// inLine is the error's text on one line, with short ids.
func inLine(err error) string {
	return ids.ReplaceAllString(strings.ReplaceAll(err.Error(), "\n", "; "), "$1")
}

// pullEvery is how often the progress of a download is shown.
const pullEvery = time.Second

// pull shows the progress of an image's download.
func (v *view) pull(p node.Pull) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.pulls[p.Image]
	if d == nil {
		d = &download{layers: map[string]node.Pull{}}
		v.pulls[p.Image] = d
	}
	d.layers[p.Layer] = p
	if time.Since(d.shown) < pullEvery {
		return
	}
	d.shown = time.Now()
	var done, total int64
	for _, l := range d.layers {
		done, total = done+l.Done, total+l.Total
	}
	v.print(fmt.Sprintf("%9s  %-9s  %s  %s of %s\n", "", "pull", p.Image, size(uint64(done)), size(uint64(total))))
}

// download is an image that is being downloaded.
type download struct {
	layers map[string]node.Pull // by digest
	shown  time.Time
}

// plugin prints the state of one of the author's plugins.
func (v *view) plugin(e node.PluginEvent) {
	v.line(fmt.Sprintf("%9s  %-9s  %s: %s\n", took(e.Took), "plugin", e.Plugin, e.What))
}

// said prints a line that a plugin or a container wrote.
func (v *view) said(who, line string) {
	v.line(fmt.Sprintf("%9s  %s | %s\n", "", who, line))
}

func (v *view) line(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.print(s)
}

// print writes; the caller holds the lock. When the output has no reader any more, the
// run ends as after an interrupt.
func (v *view) print(s string) {
	if _, err := io.WriteString(v.w, s); err != nil {
		v.unread()
	}
}

// took prints a duration with three significant digits, and nothing for zero.
func took(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

// lines returns a writer that passes whole lines on to the view, each with the prefix.
// Close passes on a last line without a newline.
func (v *view) lines(prefix string) io.WriteCloser {
	return &prefixed{view: v, prefix: prefix}
}

type prefixed struct {
	view   *view
	prefix string
	mu     sync.Mutex
	rest   []byte
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, data...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(data), nil
		}
		p.view.said(p.prefix, string(line))
		p.rest = rest
	}
}

func (p *prefixed) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) > 0 {
		p.view.said(p.prefix, string(p.rest))
		p.rest = nil
	}
	return nil
}
