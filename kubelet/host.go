package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/meminfo"
	"github.com/nodekit-project/nodekit/kubelet/admission"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// lock locks the root for this process, until unlock is called or the process ends in
// any way.
func lock(root string) (unlock func() error, err error) {
	path := filepath.Join(root, "node.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.AlreadyExists.Errorf("another node runs on this root: stop it, or choose another root")
		}
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return f.Close, nil
}

// nodeIPs returns one address of the node per IP family, IPv4 first, or the loopback
// address if it has no other.
func nodeIPs() []string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return []string{"127.0.0.1"}
	}
	var v4, v6 []string
	for _, a := range addresses {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || !n.IP.IsGlobalUnicast():
		case n.IP.To4() != nil:
			v4 = append(v4, n.IP.String())
		default:
			v6 = append(v6, n.IP.String())
		}
	}
	var ips []string
	for _, list := range [][]string{v4, v6} { // one of each family, as Kubernetes has it
		if len(list) > 0 {
			ips = append(ips, list[0])
		}
	}
	if len(ips) == 0 {
		return []string{"127.0.0.1"}
	}
	return ips
}

// admits returns what Pods are admitted to until ctx ends: everything that the machine
// has.
func (k *Kubelet) admits(ctx context.Context) admission.Node {
	return admission.Node{
		Name: k.config.NodeName, Labels: func() map[string]string { return k.labels(ctx) }, MaxPods: k.config.MaxPods,
		Room: pod.Amount{MilliCPU: cpus() * 1000, Memory: memory()},
	}
}

func cpus() int64 { return int64(runtime.NumCPU()) }

// memory returns the machine's memory in bytes, or zero if it is unknown.
func memory() int64 {
	sizes, err := meminfo.Read()
	if err != nil {
		return 0
	}
	return int64(sizes["MemTotal"]) //nolint:gosec // no machine has that much
}
