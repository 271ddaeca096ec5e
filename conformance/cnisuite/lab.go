package cnisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/scratch"
)

// newest is the newest version of the specification that the suite supports.
const newest = "1.1.0"

// lab is the environment of one check: a network namespace that stands for the host,
// and directories.
type lab struct {
	target   *Target
	dir      string   // everything below it belongs to the check
	host     string   // pinned namespace
	version  string   // of requests: the newest that both plugin and suite support
	versions []string // all that both support, oldest first
	ipam     spy
	rand     *rand.Rand
	log      *slog.Logger
	measure  func(what string, took time.Duration)
	count    int
	made     []*container
	daemon   int    // process group that Target.Setup left, or 0
	killed   bool   // a rule killed the daemon: Target.Teardown may find it gone
	boot     string // file with the boot id, once there was a reboot
	// handOver is how long the suite may take to read an execution's output, if that
	// is more than a second because many run at the same time.
	handOver time.Duration

	notes sync.Mutex // guards what follows
	took  map[string][]time.Duration
}

// inLab creates a lab for a check, and takes it down afterwards.
func inLab(check func(context.Context, *lab) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) (err error) {
		l := newLab(&in.Target, in.TempDir)
		l.rand, l.log, l.measure = in.Rand, in.Log, in.Measure
		defer func() { err = errors.Join(err, l.close(ctx)) }()
		if err := l.open(ctx); err != nil {
			return err
		}
		if err = check(ctx, l); err != nil && !l.stands() {
			err = fmt.Errorf("the plugin, or what the profile has started, took the suite's own things away while the rule ran: below %s it may touch nothing but ${DIR} and what CNI_NETNS leads to: %w", l.dir, err)
		}
		return err
	}
}

// stands reports whether the lab's namespace and directories are where the suite
// created them.
func (l *lab) stands() bool {
	_, err := nameOf(l.host)
	_, spied := os.Stat(l.ipam.dirs()[0])
	return err == nil && spied == nil
}

func newLab(target *Target, dir string) *lab {
	return &lab{
		target: target, dir: dir, host: filepath.Join(dir, "host"), ipam: spy{filepath.Join(dir, "ipam")},
		rand: rand.New(rand.NewPCG(1, 1)), log: slog.New(slog.DiscardHandler), measure: func(string, time.Duration) {},
		took: map[string][]time.Duration{},
	}
}

// prepare reports what would prevent every check: the machine, the profile, a daemon
// that does not start. It is the suite's Prepare.
func prepare(ctx context.Context, target Target) error {
	if os.Geteuid() != 0 {
		return errors.New("making network namespaces needs root: run it as root, or in namespaces of your own with `unshare -Urnm nodekit conform cni ...`")
	}
	if err := target.validate(); err != nil {
		return err
	}
	if _, err := exec.LookPath(target.Binary); err != nil {
		return fmt.Errorf("the plugin cannot be executed: %w", err)
	}
	if target.Setup == "" {
		return nil
	}
	return inTrial(ctx, &target, (*lab).start)
}

// inTrial calls fn with a lab that belongs to no rule and is not started.
func inTrial(ctx context.Context, target *Target, fn func(*lab, context.Context) error) (err error) {
	dir, err := scratch.New()
	if err != nil {
		return err
	}
	l := newLab(target, dir.Path())
	defer func() { err = errors.Join(err, l.close(ctx), dir.Remove()) }()
	return fn(l, ctx)
}

func (l *lab) open(ctx context.Context) error {
	if err := l.start(ctx); err != nil {
		return err
	}
	return l.negotiate(ctx)
}

// start creates the lab's namespace and directories, and starts what the target's
// daemon needs.
func (l *lab) start(ctx context.Context) error {
	if err := os.Mkdir(l.state(), 0o755); err != nil {
		return err
	}
	if err := errors.Join(netns.Create(l.host), l.ipam.install()); err != nil {
		return err
	}
	return l.setUp(ctx)
}

// negotiate asks the plugin for its versions, as a runtime may. A plugin without a
// usable answer gets the newest version; a rule is about that.
func (l *lab) negotiate(ctx context.Context) error {
	l.version, l.versions = newest, []string{newest}
	common, err := found(ctx, l, "versions", askVersions)
	if err != nil {
		return err
	}
	if len(common) > 0 {
		l.version, l.versions = common[len(common)-1], common
	}
	return nil
}

// askVersions returns the versions that both plugin and suite support: none if the
// plugin does not answer, because asking again would cost every rule too much time.
func askVersions(ctx context.Context, l *lab) ([]string, error) {
	out, err := l.call(ctx, "VERSION", nil, with{stdin: []byte(`{"cniVersion":"1.0.0"}`)})
	if err != nil {
		return nil, err
	}
	var a versionAnswer
	if out.ok(&a) != nil {
		return nil, nil
	}
	return slices.DeleteFunc(cni.Versions(), func(v string) bool { return !slices.Contains(a.SupportedVersions, v) }), nil
}

// speaks reports whether plugin and suite share a version that is at least this new.
func (l *lab) speaks(version string) bool { return cni.AtLeast(l.version, version) }

// network returns the name of the lab's network, or of another one, distinguished by
// which. No two labs share a network name or a container id, so what a plugin keeps
// outside of ${DIR} does not collide.
func (l *lab) network(which string) string { return "suite" + which + "-" + filepath.Base(l.dir) }

// state is what ${DIR} stands for.
func (l *lab) state() string { return filepath.Join(l.dir, "state") }

// setUp starts what the target's daemon needs, in a process group of its own.
func (l *lab) setUp(ctx context.Context) error {
	if l.target.Setup == "" {
		return nil
	}
	pid, err := l.shell(ctx, "setup", l.target.Setup)
	l.daemon = pid
	return err
}

// container is a network namespace with what the runtime knows about it.
type container struct {
	id, ifName, ns string
	number         int             // of the attachment, from 1
	nsName         string          // as the kernel has it
	prev           json.RawMessage // for a chained plugin
	hostEnd        string          // for a chained plugin: of the interface's pair
	result         json.RawMessage // of ADD, once it succeeded
	keys           map[string]any  // of its configuration that differ from the target's; nil removes one
	owed           bool            // a DEL is due, because there was an ADD
}

func (l *lab) newContainer() (*container, error) { return l.newContainerOf(l.version) }

// newContainerOf creates a container for requests of the version.
func (l *lab) newContainerOf(version string) (*container, error) {
	l.count++
	c := &container{number: l.count, id: fmt.Sprintf("suite-%s-%d", filepath.Base(l.dir), l.count), ifName: l.target.ifName(), ns: filepath.Join(l.dir, fmt.Sprintf("container-%d", l.count))}
	if err := netns.Create(c.ns); err != nil {
		return nil, err
	}
	l.made = append(l.made, c)
	var err error
	if c.nsName, err = nameOf(c.ns); err != nil {
		return nil, err
	}
	return c, l.furnish(c, version)
}

// beside creates another attachment of the container, with another interface name.
func (l *lab) beside(of *container) (*container, error) {
	l.count++
	c := &container{number: l.count, id: of.id, ns: of.ns, nsName: of.nsName, ifName: "net1"}
	l.made = append(l.made, c)
	return c, l.furnish(c, l.version)
}

// furnish prepares what the plugin will find: the delegate's answer and, for a
// chained plugin, an interface with its result.
func (l *lab) furnish(c *container, version string) error {
	if err := l.ipam.prepare(c, version, c.number); err != nil {
		return err
	}
	if c.ifName == loName { // as in a namespace created by a runtime
		return c.change(netlink.LinkSetDown)
	}
	if l.target.Kind != Chained {
		return nil
	}
	if err := l.join(c); err != nil {
		return err
	}
	var err error
	c.prev, err = l.prevResult(c, version)
	return err
}

// prevResult describes the interface that join or occupy created, in the version's
// format, followed by the host end if there is one.
func (l *lab) prevResult(c *container, version string) (json.RawMessage, error) {
	seen, err := c.look()
	if err != nil || seen == nil {
		return nil, errors.Join(err, errors.New("the suite's own interface is gone"))
	}
	address := c.address().String()
	if !cni.AtLeast(version, "0.3.0") {
		return json.RawMessage(ipamResult(version, address, "")), nil
	}
	kind := ""
	if !cni.AtLeast(version, "1.0.0") {
		kind = `"version":"4",`
	}
	host := ""
	if c.hostEnd != "" {
		links, err := linksIn(l.host)
		if err != nil || links[c.hostEnd] == nil {
			return nil, errors.Join(err, errors.New("the host's end of the suite's own interface is gone"))
		}
		host = fmt.Sprintf(`,{"name":%q,"mac":%q}`, c.hostEnd, links[c.hostEnd].Attrs().HardwareAddr)
	}
	return fmt.Appendf(nil, `{"cniVersion":%q,"interfaces":[{"name":%q,"mac":%q,"sandbox":%q}%s],"ips":[{%s"address":%q,"interface":0}]}`,
		version, c.ifName, seen.mac, c.ns, host, kind, address), nil
}

func nameOf(path string) (string, error) {
	h, err := netns.Open(path)
	if err != nil {
		return "", err
	}
	defer h.Close()
	id, err := h.ID()
	return fmt.Sprintf("net:[%d]", id.Ino), err
}

// released reports addresses that the scripted IPAM plugin was not told to free.
func (l *lab) released(c *container) error {
	calls, err := l.ipam.calls(c)
	if err != nil {
		return err
	}
	if last := len(calls) - 1; last >= 0 && calls[last].command != "DEL" {
		return fmt.Errorf("the IPAM plugin was called for %v and never for DEL after that", commands(calls))
	}
	return nil
}
