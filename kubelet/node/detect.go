package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/sockfile"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// detectWithin is how long a plugin may take to show its kind.
const detectWithin = 30 * time.Second

// detectQuietly is how long detection may take before that is reported: most plugins
// show their kind within milliseconds.
const detectQuietly = 3 * time.Second

// kubeletSocket is the name of the kubelet's own socket in the directory of device
// plugins.
const kubeletSocket = "kubelet.sock"

// places are where a plugin may show its kind.
type places struct {
	csi      string                  // the socket of CSI_ENDPOINT
	cri      string                  // the socket of CONTAINER_RUNTIME_ENDPOINT
	registry string                  // plugins_registry
	devices  string                  // device-plugins
	before   map[string]*sockfile.ID // the sockets that existed before it started
	others   []int                   // the processes of plugins that started earlier
}

// fresh returns the sockets in dir that have appeared since the plugin was started and
// do not belong to another plugin.
func (p *places) fresh(dir string) []string {
	var found []string
	for _, socket := range socketsIn(dir) {
		id, err := sockfile.Identify(socket)
		if err == nil && id != nil && !id.Same(p.before[socket]) && !p.another(socket) {
			found = append(found, socket)
		}
	}
	return found
}

// remember records the sockets that exist now.
func (p *places) remember() {
	p.before = map[string]*sockfile.ID{}
	for _, dir := range p.dirs() {
		for _, socket := range socketsIn(dir) {
			if id, err := sockfile.Identify(socket); err == nil {
				p.before[socket] = id
			}
		}
	}
}

func (p *places) dirs() []string {
	return []string{filepath.Dir(p.csi), filepath.Dir(p.cri), p.registry, p.devices}
}

// unseen describes where a running plugin was looked for.
func (p *places) unseen() string {
	return fmt.Sprintf("it neither served CSI_ENDPOINT (%s) or CONTAINER_RUNTIME_ENDPOINT (%s) nor made a socket in plugins_registry or device-plugins of "+
		"/var/lib/kubelet: does it read them from its environment, or is it to be told by --plugin-args '--endpoint=$(CSI_ENDPOINT)'?", p.csi, p.cri)
}

// sign is the first thing by which a plugin showed its kind.
type sign struct {
	kind Kind
	// registered is false for a CSI driver that only serves its socket.
	registered bool
}

// detect waits until the process shows its kind of plugin. want is the kind that the
// author named, or empty. late is called once, if that takes long, with what is being
// waited for.
func detect(ctx context.Context, p *supervisor.Process, stdout *output, at *places, want Kind, late func(string)) (sign, error) {
	ctx, cancel := context.WithTimeout(ctx, detectWithin)
	defer cancel()
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return sign{}, err
	}
	defer events.Close()
	for _, dir := range at.dirs() {
		if err := events.Add(dir); err != nil {
			return sign{}, fmt.Errorf("watching %q: %w", dir, err)
		}
	}
	quiet := time.After(detectQuietly)
	for {
		if s, ok := look(ctx, at); ok && (want == "" || want == s.kind) {
			return s, nil
		}
		select {
		case <-events.Events:
		case err := <-events.Errors:
			return sign{}, err
		case <-p.Done():
			if isCNI(stdout.bytes()) && (want == "" || want == CNI) {
				return sign{kind: CNI}, nil
			}
			return sign{}, fault.FailedPrecondition.Errorf("it ended (%v) before it served or registered anything, as drivers, device plugins and runtimes do, "+
				"and without an answer to VERSION, as CNI plugins give one%s", p.Ending(), tailOf(p))
		case <-quiet:
			late(fmt.Sprintf("shows no sign yet, and is waited for (%v): so far %s", detectWithin, at.unseen()))
		case <-time.After(50 * time.Millisecond): // a socket that is bound but not listening yet causes no second event
		case <-ctx.Done():
			return sign{}, fault.FailedPrecondition.Errorf("it runs, but within %v %s%s", detectWithin, at.unseen(), tailOf(p))
		}
	}
}

func tailOf(p *supervisor.Process) string {
	tail := strings.TrimSpace(p.Tail())
	if tail == "" {
		return ""
	}
	return "; it printed:\n" + tail
}

// look returns the first sign that exists now. A registration takes precedence over a
// served socket, because it says more.
func look(ctx context.Context, at *places) (sign, bool) {
	for _, socket := range at.fresh(at.registry) {
		switch kindOf(ctx, socket) {
		case registration.CSIPlugin:
			return sign{kind: CSI, registered: true}, true
		case registration.DevicePlugin:
			return sign{kind: DevicePlugin, registered: true}, true
		}
	}
	for _, socket := range at.fresh(at.devices) {
		if filepath.Base(socket) != kubeletSocket && served(socket) {
			return sign{kind: DevicePlugin, registered: true}, true
		}
	}
	for _, socket := range at.fresh(filepath.Dir(at.csi)) {
		if socket == at.csi && served(socket) {
			return sign{kind: CSI}, true
		}
	}
	for _, socket := range at.fresh(filepath.Dir(at.cri)) {
		if socket == at.cri && served(socket) {
			return sign{kind: CRI}, true
		}
	}
	return sign{}, false
}

func socketsIn(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var sockets []string
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			sockets = append(sockets, filepath.Join(dir, e.Name()))
		}
	}
	return sockets
}

// kindOf returns what a registration socket registers, or "" if it does not answer.
func kindOf(ctx context.Context, socket string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := rpc.Dial(socket, "registration", nil)
	if err != nil {
		return ""
	}
	defer conn.Close()
	info, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return ""
	}
	return info.GetType()
}

func served(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close() // connecting was the only purpose
	return true
}

// isCNI reports whether out is an answer to CNI's VERSION command.
func isCNI(out []byte) bool {
	var answer struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	return json.Unmarshal(out, &answer) == nil && len(answer.SupportedVersions) > 0
}

// output keeps the first bytes that a program writes to standard output, and passes
// everything on.
type output struct {
	mu   sync.Mutex
	kept bytes.Buffer
	pass func([]byte)
}

const outputKept = 64 << 10

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	if room := outputKept - o.kept.Len(); room > 0 {
		o.kept.Write(data[:min(room, len(data))])
	}
	o.mu.Unlock()
	o.pass(data)
	return len(data), nil
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.kept.Bytes())
}
