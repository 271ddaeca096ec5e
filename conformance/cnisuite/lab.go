package cnisuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// newest is the newest version of the specification that the suite speaks.
const newest = "1.1.0"

// settleTime is how long the kernel may take to remove what a DEL gave up.
const settleTime = 3 * time.Second

// lab is the place where one check runs: a network namespace that stands for
// the host, and directories.
type lab struct {
	target  *Target
	dir     string // everything below it is the check's
	host    string // pinned namespace
	version string // of requests: the newest that plugin and suite speak
	ipam    spy
	rand    *rand.Rand
	log     *slog.Logger
	addTook time.Duration // the last ADD that was not killed
	count   int
	made    []*container
}

// inLab gives a check a lab, and takes it down afterwards.
func inLab(check func(context.Context, *lab) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) (err error) {
		l := &lab{target: &in.Target, dir: in.TempDir, host: filepath.Join(in.TempDir, "host"), rand: in.Rand, log: in.Log, addTook: time.Millisecond}
		l.ipam.dir = filepath.Join(in.TempDir, "ipam")
		defer func() { err = errors.Join(err, l.close()) }()
		if err := os.Mkdir(l.state(), 0o755); err != nil {
			return err
		}
		if err := errors.Join(netns.Create(l.host), l.ipam.install()); err != nil {
			return err
		}
		l.version = l.negotiate(ctx)
		return check(ctx, l)
	}
}

// negotiate asks the plugin for its versions, as a runtime may. A plugin that
// gives no usable answer gets the newest; a rule is about that.
func (l *lab) negotiate(ctx context.Context) string {
	out, err := l.exec(ctx, map[string]string{"CNI_COMMAND": "VERSION"}, []byte(`{"cniVersion":"1.0.0"}`))
	if err != nil {
		return newest
	}
	var a struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if out.success("VERSION", &a) != nil {
		return newest
	}
	for _, v := range slices.Backward(cni.Versions()) { // oldest first
		if slices.Contains(a.SupportedVersions, v) {
			return v
		}
	}
	return newest
}

func (l *lab) close() error {
	var errs []error
	for _, c := range l.made {
		errs = append(errs, netns.Remove(c.ns))
	}
	return errors.Join(append(errs, netns.Remove(l.host))...)
}

// state is what ${DIR} stands for.
func (l *lab) state() string { return filepath.Join(l.dir, "state") }

// container is a network namespace with what the runtime knows of it.
type container struct {
	id, ifName, ns string
	prev           json.RawMessage // for a chained plugin
	result         json.RawMessage // of ADD, once it succeeded
}

func (l *lab) newContainer(context.Context) (*container, error) {
	l.count++
	c := &container{id: fmt.Sprintf("suite-container-%d", l.count), ifName: "eth0", ns: filepath.Join(l.dir, fmt.Sprintf("container-%d", l.count))}
	if err := netns.Create(c.ns); err != nil {
		return nil, err
	}
	l.made = append(l.made, c)
	if err := l.ipam.prepare(c, l.version, l.count); err != nil {
		return nil, err
	}
	if !l.target.Chained {
		return c, nil
	}
	if err := c.occupy(); err != nil {
		return nil, err
	}
	seen, err := c.look()
	if err != nil {
		return nil, err
	}
	c.prev = fmt.Appendf(nil, `{"cniVersion":%q,"interfaces":[{"name":%q,"mac":%q,"sandbox":%q}],"ips":[{"address":"10.124.0.2/24","interface":0}]}`,
		l.version, c.ifName, seen.mac, c.ns)
	return c, nil
}

// request is the document for the container: the target's configuration with
// what a runtime adds. Extra keys replace others.
func (l *lab) request(c *container, extra map[string]any) ([]byte, error) {
	config, err := l.target.config(l.state())
	if err != nil {
		return nil, err
	}
	config["cniVersion"], config["name"] = l.version, "suite"
	if c.prev != nil {
		config["prevResult"] = c.prev
	}
	for key, value := range extra {
		config[key] = value
	}
	return json.Marshal(config)
}

// env is the exact environment of an execution.
func (l *lab) env(command string, c *container) map[string]string {
	return map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": c.id, "CNI_NETNS": c.ns, "CNI_IFNAME": c.ifName,
		"CNI_PATH": strings.Join(append([]string{l.ipam.dir}, l.target.Path...), ":"),
		"PATH":     "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// exec runs the plugin in the host's namespace. An error is about the suite; a
// plugin that fails is an answer.
func (l *lab) exec(ctx context.Context, env map[string]string, stdin []byte) (*answer, error) {
	cmd, out := l.command(ctx, env, stdin)
	err := netns.Do(l.host, cmd.Run)
	return collect(cmd, out, err)
}

// execKilled kills the plugin, and what it started, after some time.
func (l *lab) execKilled(ctx context.Context, env map[string]string, stdin []byte, after time.Duration) (killed bool, err error) {
	cmd, _ := l.command(ctx, env, stdin)
	if err := netns.Do(l.host, cmd.Start); err != nil {
		return false, fmt.Errorf("executing the plugin: %w", err)
	}
	timer := time.AfterFunc(after, func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
	})
	err = cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, fmt.Errorf("executing the plugin: %w", err)
	}
	return !cmd.ProcessState.Exited(), nil
}

func (l *lab) command(ctx context.Context, env map[string]string, stdin []byte) (*exec.Cmd, *answer) {
	out := &answer{}
	cmd := exec.CommandContext(ctx, l.target.Binary)
	cmd.Env = []string{}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd, out
}

func collect(cmd *exec.Cmd, out *answer, err error) (*answer, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("executing the plugin: %w", err)
	}
	out.rc = cmd.ProcessState.ExitCode()
	out.stdout, out.stderr = cmd.Stdout.(*bytes.Buffer).Bytes(), cmd.Stderr.(*bytes.Buffer).Bytes()
	return out, nil
}

// snapshot is everything of the host namespace, and files of the plugin.
func (l *lab) snapshot() (s *leak.Snapshot, err error) {
	err = netns.Do(l.host, func() error {
		s, err = leak.Take(leak.Scope{
			Kinds:  []leak.Kind{leak.Link, leak.Address, leak.NFT, leak.Process, leak.File},
			Marker: l.dir, Dirs: slices.Concat([]string{l.state()}, l.target.Dirs),
		})
		return err
	})
	return s, err
}

// clean compares the machine with the snapshot.
func (l *lab) clean(ctx context.Context, before *leak.Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var left []leak.Leak
	err := netns.Do(l.host, func() error {
		left = leak.Settled(ctx, before)
		return nil
	})
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind: %v", left)
	}
	return nil
}

// released reports addresses that the scripted IPAM plugin was not told to free.
func (l *lab) released(c *container) error {
	calls, err := l.ipam.calls(c)
	if err != nil {
		return err
	}
	if last := len(calls) - 1; last >= 0 && calls[last] != "DEL" {
		return fmt.Errorf("the IPAM plugin was called for %v and never for DEL after that", calls)
	}
	return nil
}

// nic is an interface as the kernel has it.
type nic struct {
	mac       string
	addresses map[string]bool
}

// look returns the container's interface, or nil.
func (c *container) look() (found *nic, err error) {
	err = netns.Do(c.ns, func() error {
		l, err := netlink.LinkByName(c.ifName)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, syscall.AF_UNSPEC)
		if err != nil {
			return err
		}
		found = &nic{mac: l.Attrs().HardwareAddr.String(), addresses: map[string]bool{}}
		for _, a := range addrs {
			found.addresses[a.IPNet.String()] = true
		}
		return nil
	})
	return found, err
}

// empty reports an interface that DEL left, unless it was there before.
func (c *container) empty() error {
	found, err := c.look()
	if err != nil {
		return err
	}
	if found != nil && c.prev == nil {
		return fmt.Errorf("interface %q is still in the container", c.ifName)
	}
	return nil
}

// occupy makes an interface of the container's name that is not the plugin's.
func (c *container) occupy() error {
	return netns.Do(c.ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = c.ifName
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "suite-peer"}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("making an interface in the container: %w", err)
		}
		return netlink.AddrAdd(pair, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 124, 0, 2).To4(), Mask: net.CIDRMask(24, 32)}})
	})
}
