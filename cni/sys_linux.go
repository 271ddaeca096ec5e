package cni

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// openNetNS opens CNI_NETNS. For ADD and CHECK it refuses a path that is not a
// network namespace, and the namespace that the plugin itself runs in: configuring
// that as a container's would cut off the host. For DEL there is nothing to undo in
// either.
func (r *Request) openNetNS() error {
	switch r.Command {
	case CmdGC, CmdStatus:
		return nil
	}
	h, err := foreign(r.NetNS)
	if err == nil {
		r.ns = h
		return nil
	}
	if r.Command != CmdDel {
		return Errorf(CodeEnvironment, "CNI_NETNS: %w", err)
	}
	if r.NetNS != "" && !errors.Is(err, fault.NotFound) {
		r.Log.Warn("deleting without the network namespace", "err", err)
		r.forgetNetNS()
	}
	return nil
}

// foreign opens a network namespace other than the calling thread's.
func foreign(path string) (*netns.Handle, error) {
	container, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	a, aerr := container.ID()
	b, berr := netns.CurrentID()
	if err = errors.Join(aerr, berr); err == nil && a == b {
		err = fault.Invalid.Errorf("%q is the network namespace that the plugin runs in", path)
	}
	if err != nil {
		return nil, errors.Join(err, container.Close())
	}
	return container, nil
}

// exists reports whether the container already has the interface.
func (r *Request) exists() (found bool, err error) {
	if r.ns == nil {
		return false, nil
	}
	err = r.ns.Do(func() (err error) {
		found, err = listed("/proc/thread-self/net/dev", r.IfName)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking for interface %q in the container: %w", r.IfName, err)
	}
	return found, nil
}

// listed reports whether a file like /proc/net/dev lists the interface. Reading that
// file takes no lock, unlike a netlink request for the link. SIOCGIFINDEX would take
// none either, but for a name that does not exist it makes the kernel execute
// modprobe, twice.
func listed(file, name string) (bool, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(raw)) {
		if has, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(has) == name {
			return true, nil
		}
	}
	return false, nil
}

// netnsID identifies the open namespace by the device and inode of its file and by
// its cookie. Either is zero if it cannot be determined.
func (r *Request) netnsID() (id string, cookie uint64) {
	if r.ns == nil {
		return "", 0
	}
	if n, err := r.ns.ID(); err == nil {
		id = fmt.Sprintf("%d:%d", n.Dev, n.Ino)
	}
	cookie, err := r.ns.Cookie()
	if err != nil {
		return id, 0
	}
	return id, cookie
}

// dropForeignNetNS makes a DEL one without a namespace if CNI_NETNS no longer refers
// to the namespace of the ADD, because it is then another container's. No namespace
// outlives the boot of its ADD; within a boot the kernel reuses inode numbers, but
// never cookies.
func (r *Request) dropForeignNetNS() {
	rec := r.kept.record
	if r.Command != CmdDel || r.ns == nil || rec == nil {
		return
	}
	boot, err := state.Boot()
	id, cookie := r.netnsID()
	same := (rec.Boot == "" || err == nil && rec.Boot == boot) &&
		(rec.NetNSID == "" || rec.NetNSID == id) &&
		(rec.NetNSCookie == 0 || cookie == 0 || rec.NetNSCookie == cookie)
	if same {
		return
	}
	r.Log.Warn("CNI_NETNS leads to another namespace than at the ADD: deleting without it", "netns", r.NetNS)
	r.forgetNetNS()
}

// forgetNetNS hides the namespace from the handler and from delegates.
func (r *Request) forgetNetNS() {
	r.close()
	r.NetNS = ""
	r.input.env = maps.Clone(r.input.env)
	r.input.env["CNI_NETNS"] = ""
}

func (r *Request) close() {
	if r.ns != nil {
		r.ns.Close()
		r.ns = nil
	}
}

// NetNSFD returns a descriptor of the verified CNI_NETNS, which the request closes when
// it ends. It returns -1 for IPAM plugins, for GC and STATUS, and for a DEL without a
// usable namespace.
func (r *Request) NetNSFD() int {
	if r.ns == nil {
		return -1
	}
	return r.ns.FD()
}

// InNetNS calls fn in the container's network namespace, on a goroutine locked to its
// thread: fn must not start goroutines that depend on the namespace.
//
// For DEL there is nothing to undo in a namespace that is not given, is gone, or is not
// the one of the ADD: InNetNS then returns nil without calling fn.
func (r *Request) InNetNS(fn func() error) error {
	switch {
	case r.ns != nil:
		return r.ns.Do(fn)
	case r.Command == CmdDel:
		return nil
	}
	return netns.Do(r.NetNS, fn)
}
