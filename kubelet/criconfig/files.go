package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const hostsPath = "/etc/hosts"

// hostFiles are the host paths that a container mounts.
type hostFiles struct {
	volumes     []string // by index in the container's volumeMounts
	hosts       string
	termination string
}

// prepare creates what the container mounts. It may be repeated.
func (b *Builder) prepare(r *pod.Request, env []variable) (*hostFiles, error) {
	logs := filepath.Join(b.node.LogDir, pod.LogDirectory(r.Pod), r.Container.Name)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("making the log directory: %w", err)
	}
	host := &hostFiles{hosts: filepath.Join(b.podDir(r.Pod.UID), "etc-hosts")}
	if err := b.writeHosts(r, host.hosts); err != nil {
		return nil, err
	}
	if r.Container.TerminationMessagePath != "" {
		dir := filepath.Join(b.podDir(r.Pod.UID), "containers", r.Container.Name)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("making the container's directory: %w", err)
		}
		host.termination = filepath.Join(dir, fmt.Sprintf("termination-%d", r.Start.Attempt))
		// Any user of the container may leave a message.
		if err := errors.Join(os.WriteFile(host.termination, nil, 0o666), os.Chmod(host.termination, 0o666)); err != nil {
			return nil, fmt.Errorf("making the termination message file: %w", err)
		}
	}
	for i := range r.Container.VolumeMounts {
		path, err := b.volume(r, i, env)
		if err != nil {
			return nil, fmt.Errorf("volume mount %q of container %q: %w", r.Container.VolumeMounts[i].MountPath, r.Container.Name, err)
		}
		host.volumes = append(host.volumes, path)
	}
	return host, nil
}

// volume returns the host path of the container's volume mount i.
func (b *Builder) volume(r *pod.Request, i int, env []variable) (string, error) {
	m := &r.Container.VolumeMounts[i]
	v, ok := r.Volumes[m.Name]
	if !ok {
		return "", fault.NotFound.Errorf("the Pod has no volume %q", m.Name)
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = expand(m.SubPathExpr, env)
		if strings.Contains(sub, "$(") {
			return "", fault.Invalid.Errorf("subPathExpr %q refers to a variable that is not set", m.SubPathExpr)
		}
	}
	if sub == "" {
		return v.HostPath, nil
	}
	return bindSubPath(v.HostPath, sub, b.subPath(r.Pod.UID, m.Name, r.Container.Name, i))
}

func (b *Builder) subPath(uid types.UID, volume, container string, i int) string {
	return filepath.Join(b.podDir(uid), "volume-subpaths", volume, container, strconv.Itoa(i))
}

// bindSubPath bind-mounts sub of the volume at target and returns target. Each element
// of sub is resolved inside the volume (os.Root), and exactly what was opened there is
// mounted, so a container that swaps a directory for a symbolic link at the wrong
// moment cannot reach the host. If sub does not exist, it is created as a directory,
// usable by whoever may use the volume.
func bindSubPath(volume, sub, target string) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fault.Invalid.Errorf("subPath %q leaves the volume", sub)
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", fmt.Errorf("opening the volume: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(sub, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a FIFO must not block
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeLike(root, sub); err == nil {
			f, err = root.OpenFile(sub, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		}
	}
	if err != nil {
		return "", fmt.Errorf("opening subPath %q in the volume: %w", sub, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if err := mount.Detach(target); err != nil { // of an earlier instance
		return "", err
	}
	if err := makeTarget(target, fi.IsDir()); err != nil {
		return "", err
	}
	return target, mount.Bind(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, &mount.BindOptions{Recursive: true})
}

// makeLike creates the missing directories of sub, with the mode of the volume's root.
func makeLike(root *os.Root, sub string) error {
	fi, err := root.Stat(".")
	if err != nil {
		return err
	}
	mode := fi.Mode() & (fs.ModePerm | fs.ModeSetgid)
	at := ""
	for part := range strings.SplitSeq(filepath.Clean(sub), "/") {
		at = filepath.Join(at, part)
		err := root.Mkdir(at, mode.Perm())
		if err == nil {
			err = root.Chmod(at, mode) // regardless of the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// makeTarget creates an empty directory or file to mount on.
func makeTarget(target string, dir bool) error {
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("making the mount point of a subPath: %w", err)
	}
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o640)
}

// writeHosts writes the Pod's hosts file if its contents have changed.
func (b *Builder) writeHosts(r *pod.Request, path string) error {
	text, err := b.hosts(r)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(path); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("writing the hosts file: %w", err)
	}
	// Written in place, because running containers have mounted this very file.
	return errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644))
}

func (b *Builder) hosts(r *pod.Request) (string, error) {
	var text strings.Builder
	if r.Pod.Spec.HostNetwork {
		data, err := os.ReadFile(hostsPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("reading the node's hosts file: %w", err)
		}
		text.Write(data)
	} else {
		text.WriteString("# Made by nodekit for the Pod.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name := hostname(r.Pod)
		if r.Pod.Spec.Subdomain != "" {
			name = fmt.Sprintf("%s.%s.%s.svc.cluster.local\t%s", name, r.Pod.Spec.Subdomain, r.Pod.Namespace, name)
		}
		for _, ip := range r.Sandbox.IPs {
			fmt.Fprintf(&text, "%s\t%s\n", ip, name)
		}
	}
	for _, a := range r.Pod.Spec.HostAliases {
		fmt.Fprintf(&text, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return text.String(), nil
}

// Clean removes what Container created for the Pod outside its volumes, including its
// logs. No container of the Pod may be running. Clean is idempotent.
func (b *Builder) Clean(p *v1.Pod) error {
	dir := b.podDir(p.UID)
	if err := mount.DetachTree(filepath.Join(dir, "volume-subpaths")); err != nil {
		return err
	}
	return errors.Join(
		mount.RemoveAll(filepath.Join(dir, "volume-subpaths")),
		os.RemoveAll(filepath.Join(dir, "containers")),
		atomicfile.Remove(filepath.Join(dir, "etc-hosts")),
		os.RemoveAll(filepath.Join(b.node.LogDir, pod.LogDirectory(p))),
	)
}

// RemoveDir removes the Pod's directory. It fails while anything in it is mounted.
func (b *Builder) RemoveDir(uid types.UID) error { return mount.RemoveAll(b.podDir(uid)) }
