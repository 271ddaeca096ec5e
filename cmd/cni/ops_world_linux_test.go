package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// state is what the oracle knows of an attachment.
type state int

const (
	absent state = iota // nothing of it is there
	dirty               // an operation was killed: anything may be there
	live                // it was added
)

// attachment is an interface of a container on a network.
type attachment struct {
	n       *network
	c       *container
	ifName  string
	port    int
	state   state
	result  json.RawMessage
	ips     map[string]bool // of the result
	link    string          // of the result: the host's end
	history []string
}

func (a *attachment) id() cni.Attachment {
	return cni.Attachment{ContainerID: a.c.id, IfName: a.ifName}
}

func (a *attachment) String() string { return a.n.name + "/" + a.id().String() }

// container is a network namespace with what is attached to it.
type container struct {
	id, ns      string
	alive       bool
	attachments []*attachment
}

// busy tells whether anything may be left of the container.
func (c *container) busy() bool {
	return slices.ContainsFunc(c.attachments, func(a *attachment) bool { return a.state != absent })
}

// network is a bridge with dual stack, masquerade and host ports.
type network struct {
	name, bridge, four, six, data string
	first                         bool // of a container's: it has the default route
}

// config returns the document for one plugin of the chain.
func (n *network) config(kind string) map[string]any {
	out := map[string]any{"cniVersion": "1.1.0", "name": n.name, "type": kind}
	if kind == "bridge" {
		out["bridge"], out["isGateway"], out["isDefaultGateway"], out["ipMasq"] = n.bridge, true, n.first, true
		out["ipam"] = map[string]any{"type": "host-local", "dataDir": n.data, "ranges": [][]any{
			{map[string]any{"subnet": n.four}}, {map[string]any{"subnet": n.six}},
		}}
	}
	return out
}

// world is a machine with containers, and the oracle of what is there.
type world struct {
	t          *testing.T
	dir, bin   string
	host       string // pinned namespace that stands for the machine's
	networks   []*network
	containers []*container
	before     *leak.Snapshot
	rand       *rand.Rand
	boots      int

	mu             sync.Mutex
	ops            int
	kills, reboots int
	made           map[string]int
	usual          map[string]time.Duration // what an execution takes
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), bin: build(t), made: map[string]int{}, usual: map[string]time.Duration{}}
	w.host = filepath.Join(w.dir, "host")
	data := filepath.Join(w.dir, "data")
	w.networks = []*network{
		{"first", "ops0", "10.88.0.0/24", "fd88:0::/64", data, true},
		{"second", "ops1", "10.88.1.0/28", "fd88:1::/64", data, false}, // one address more than containers need
	}
	for i := range 6 {
		c := &container{}
		for j, a := range []*attachment{{n: w.networks[0], ifName: "eth0"}, {n: w.networks[1], ifName: "eth1"}, {n: w.networks[1], ifName: "eth2"}} {
			a.c, a.port = c, 10_000+10*i+j
			c.attachments = append(c.attachments, a)
		}
		w.containers = append(w.containers, c)
		w.revive(c)
	}
	t.Cleanup(func() {
		for _, c := range w.containers {
			netns.Remove(c.ns)
		}
		netns.Remove(w.host)
	})
	w.boot()
	return w
}

// revive gives a container that is gone a successor.
func (w *world) revive(c *container) {
	w.t.Helper()
	w.boots++
	c.id, c.alive = fmt.Sprintf("c%d", w.boots), true
	c.ns = filepath.Join(w.dir, c.id)
	if err := netns.Create(c.ns); err != nil {
		w.t.Fatal(err)
	}
}

// die removes the namespace under the attachments, which nobody has told the
// plugins of.
func (w *world) die(c *container) {
	w.t.Helper()
	if !c.alive {
		return
	}
	w.count("death")
	c.alive = false
	for _, a := range c.attachments {
		a.history = append(a.history, "the container died")
	}
	if err := netns.Remove(c.ns); err != nil {
		w.t.Fatal(err)
	}
}

// boot makes the machine's namespace, and what outlives attachments there.
func (w *world) boot() {
	w.t.Helper()
	if err := netns.Create(w.host); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.networks {
		a := w.containers[0].attachments[slices.Index(w.networks, n)]
		w.add(a, delivery{})
		w.del(a, delivery{})
	}
	var err error
	if w.before, err = w.look(); err != nil {
		w.t.Fatal(err)
	}
}

// reboot takes away all that is not on the disk. The runtime that starts then
// knows that no attachment lives.
func (w *world) reboot() {
	w.t.Helper()
	w.reboots++
	for _, c := range w.containers {
		w.die(c)
		for _, a := range c.attachments {
			if a.state == live {
				a.state = dirty
			}
			a.history = append(a.history, "reboot")
		}
	}
	if err := netns.Remove(w.host); err != nil {
		w.t.Fatal(err)
	}
	if err := netns.Create(w.host); err != nil {
		w.t.Fatal(err)
	}
	if w.rand.IntN(2) == 0 { // else the first ADD meets what the disk still has
		for _, n := range w.networks {
			w.gc(n)
		}
	}
	w.clean()
	if err := netns.Remove(w.host); err != nil {
		w.t.Fatal(err)
	}
	w.revive(w.containers[0])
	w.boot()
}

// pick draws an attachment that matches, or none.
func (w *world) pick(matches func(*attachment) bool) *attachment {
	var all []*attachment
	for _, n := range w.networks {
		for _, a := range w.attachments(n) {
			if matches(a) {
				all = append(all, a)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rand.IntN(len(all))]
}

func (w *world) attachments(n *network) (list []*attachment) {
	for _, c := range w.containers {
		for _, a := range c.attachments {
			if a.n == n {
				list = append(list, a)
			}
		}
	}
	return list
}

func (w *world) count(op string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops++
	w.made[op]++
}

func (w *world) note(a *attachment, op string, d delivery) {
	w.count(strings.Fields(op)[0])
	w.mu.Lock()
	defer w.mu.Unlock()
	a.history = append(a.history, fmt.Sprintf("operation %d, %v: %s %+v", w.ops, a, op, d))
}

// fail ends the test, at the latest when the operations beside have ended.
func (w *world) fail(a *attachment, format string, args ...any) {
	last := a.history[max(0, len(a.history)-15):]
	w.t.Errorf("%v: %s\nits history:\n  %s", a, fmt.Sprintf(format, args...), strings.Join(last, "\n  "))
	a.state = dirty
}

// lives takes the result of an ADD.
func (w *world) lives(a *attachment, result json.RawMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := a.take(result); err != nil {
		w.fail(a, "result of ADD: %v, %s", err, result)
		return
	}
	for _, c := range w.containers {
		for _, other := range c.attachments {
			for ip := range a.ips {
				if other != a && other.state == live && other.ips[ip] {
					w.fail(a, "it got %s, which %v has", ip, other)
				}
			}
		}
	}
	a.state = live
}

// take notes what an ADD has made.
func (a *attachment) take(result json.RawMessage) error {
	r, err := cni.DecodeResult(result, "")
	if err != nil {
		return err
	}
	a.result, a.ips, a.link = result, map[string]bool{}, ""
	for _, ip := range r.IPs {
		a.ips[ip.Address.IP.String()] = true
	}
	for _, nic := range r.Interfaces {
		if nic.Sandbox == "" && nic.Name != a.n.bridge {
			a.link = nic.Name
		}
	}
	if len(a.ips) != 2 || a.link == "" {
		return errors.New("it shall have two addresses and the host's end of a pair")
	}
	return nil
}

// env is the environment of an execution.
func (a *attachment) env(command string, d delivery) map[string]string {
	env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": a.c.id, "CNI_IFNAME": a.ifName, "CNI_NETNS": a.c.ns}
	if command == "DEL" && d.noNetNS {
		env["CNI_NETNS"] = ""
	}
	return env
}

// chain calls the plugins in the order of the command, the later ones of ADD
// with the result of the earlier. The result is that of ADD.
func (w *world) chain(command string, a *attachment, d delivery) (result json.RawMessage, err error) {
	kinds := []string{"bridge", "portmap"}
	if command == "DEL" {
		slices.Reverse(kinds)
	}
	if command != "ADD" && !(command == "DEL" && d.noPrev) {
		result = a.result
	}
	for i, kind := range kinds {
		config := a.n.config(kind)
		if len(result) > 0 {
			config["prevResult"] = result
		}
		if kind == "portmap" && !(command == "DEL" && d.noConfig) {
			config["runtimeConfig"] = map[string]any{"portMappings": []any{
				map[string]any{"hostPort": a.port, "containerPort": 80, "protocol": "tcp"},
				map[string]any{"hostPort": a.port, "containerPort": 53, "protocol": "udp"},
			}}
		}
		out, err := w.exec(kind, a.env(command, d), config, d.kill(i))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		if command == "ADD" {
			result = out
		}
		if d.cut && i == 0 {
			return nil, errKilled
		}
	}
	return result, nil
}

// errKilled says that a plugin, or the runtime, was killed.
var errKilled = errors.New("killed")

func isKill(err error) bool { return errors.Is(err, errKilled) }

// kill returns when the plugin of that number in the chain is killed, as a part
// of the time that it usually takes; 0 is never.
func (d delivery) kill(number int) float64 {
	if !d.killed || d.plugin != number {
		return 0
	}
	return max(d.at, 0.001)
}

// exec executes a plugin on the machine. A kill that comes too late is none.
func (w *world) exec(kind string, env map[string]string, config map[string]any, kill float64) (out []byte, err error) {
	stdin, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(w.bin, kind))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = []string{"CNI_PATH=" + w.bin}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	start := time.Now()
	err = netns.Do(w.host, func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		if kill > 0 {
			group := -cmd.Process.Pid
			timer := time.AfterFunc(time.Duration(kill*float64(w.takes(kind+env["CNI_COMMAND"], 0))), func() { syscall.Kill(group, syscall.SIGKILL) })
			defer timer.Stop()
		}
		return cmd.Wait()
	})
	if status, ok := waitStatus(cmd); ok && status.Signal() == syscall.SIGKILL {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.kills++
		return nil, errKilled
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s%s", err, &stdout, &stderr)
	}
	w.takes(kind+env["CNI_COMMAND"], time.Since(start))
	return stdout.Bytes(), nil
}

func waitStatus(cmd *exec.Cmd) (syscall.WaitStatus, bool) {
	if cmd.ProcessState == nil {
		return 0, false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status, ok && status.Signaled()
}

// takes returns what an execution usually takes, and learns from one.
func (w *world) takes(what string, took time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if usual := w.usual[what]; took > 0 {
		w.usual[what] = (3*usual + took) / 4
	}
	return max(w.usual[what], 5*time.Millisecond)
}
