package cnisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// nic is an interface as reported by the kernel.
type nic struct {
	mac       string
	up        bool
	mtu       int
	addresses map[string]bool
	lasting   []string // those of the addresses that the kernel neither creates nor learns by itself
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
		found, err = nicOf(l)
		return err
	})
	return found, err
}

// there reports whether the container's namespace still exists.
func (c *container) there() bool {
	name, err := nameOf(c.ns)
	return err == nil && name == c.nsName
}

// lookIfThere is look for a container whose namespace may be gone.
func (c *container) lookIfThere() (*nic, error) {
	if !c.there() {
		return nil, nil
	}
	return c.look()
}

// same reports what a later look at the interface finds changed, except for
// addresses.
func (n *nic) same(now *nic) error {
	if now.mac != n.mac || now.mtu != n.mtu || now.up != n.up {
		return fmt.Errorf("the interface had the hardware address %s, the MTU %d and up=%t, and has %s, %d and up=%t",
			n.mac, n.mtu, n.up, now.mac, now.mtu, now.up)
	}
	return nil
}

// change modifies the container's interface, as an administrator might by mistake.
func (c *container) change(do func(netlink.Link) error) error {
	return netns.Do(c.ns, func() error {
		l, err := netlink.LinkByName(c.ifName)
		if err != nil {
			return err
		}
		return do(l)
	})
}

// empty reports an interface that DEL left, unless it was there before. A DEL may
// leave the removal to the kernel, which takes a moment.
func (c *container) empty() error {
	if c.prev != nil || c.ifName == loName {
		return nil
	}
	deadline := time.Now().Add(settleTime)
	for wait := time.Millisecond; ; wait = min(2*wait, settleTime/100) {
		found, err := c.look()
		if err != nil || found == nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %q is still in the container", c.ifName)
		}
		time.Sleep(wait)
	}
}

// occupy creates an interface with the container's interface name that is not the
// plugin's, with its peer in the container too.
func (c *container) occupy() error {
	return netns.Do(c.ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = c.ifName
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "suite-" + c.ifName}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("making an interface in the container: %w", err)
		}
		return netlink.AddrAdd(pair, &netlink.Addr{IPNet: c.address()})
	})
}

// join creates the interface that an earlier plugin of a chain would have created:
// one end of a pair whose other end is on the host.
func (l *lab) join(c *container) error {
	c.hostEnd = fmt.Sprintf("suite-host%d", c.number)
	if err := l.pair(c.hostEnd, c.ns, c.ifName); err != nil {
		return fmt.Errorf("making an interface in the container: %w", err)
	}
	err := netns.Do(l.host, func() error {
		end, err := netlink.LinkByName(c.hostEnd)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(end)
	})
	return errors.Join(err, c.change(func(end netlink.Link) error {
		return errors.Join(netlink.AddrAdd(end, &netlink.Addr{IPNet: c.address()}), netlink.LinkSetUp(end))
	}))
}

// queueLength is the kernel's default for an interface. The kernel sets it on an
// interface without one as soon as traffic control is used.
const queueLength = 1000

// pair creates a veth pair with one end on the host and one in the namespace.
func (l *lab) pair(name, ns, far string) error {
	h, err := netns.Open(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.TxQLen = name, queueLength
	return netns.Do(l.host, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(h.FD()), PeerTxQLen: queueLength})
	})
}

// raise sets the interface and its peer up, as an earlier plugin does.
func (c *container) raise() error {
	return netns.Do(c.ns, func() error {
		var errs []error
		for _, name := range []string{c.ifName, "suite-" + c.ifName} {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// address is what a chained plugin finds on the container's interface; no other
// attachment has it.
func (c *container) address() *net.IPNet {
	high, low := (c.number-1)/250, 2+(c.number-1)%250
	return &net.IPNet{IP: net.IPv4(10, 124, byte(high), byte(low)).To4(), Mask: net.CIDRMask(24, 32)}
}

// shell runs a command of the profile in the host's namespace, and returns its
// process group, which outlives it.
func (l *lab) shell(ctx context.Context, name, script string) (group int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	// Output goes to a file: with a pipe, Wait would wait for a daemon.
	log, err := os.Create(filepath.Join(l.dir, name+".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+l.state())
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := netns.Do(l.host, cmd.Start); err != nil {
		return 0, fmt.Errorf("the profile's %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		said, _ := os.ReadFile(log.Name())
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.New("it did not return in time: a daemon has to be started in the background, with &, and to answer")
		}
		return cmd.Process.Pid, fmt.Errorf("the profile's %s: %w; it printed: %s", name, err, bytes.TrimSpace(said))
	}
	return cmd.Process.Pid, nil
}
