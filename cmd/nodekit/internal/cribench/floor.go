package cribench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// floor measures the OCI runtimes alone, without a CRI runtime: a lower bound for a
// runtime that executes them as they are. The container is minimal: no network, image,
// seccomp profile or limits. It is ended with the kernel's means, which is faster than
// the OCI runtime's delete. See hand for a complete Pod.
func (l *lab) floor(ctx context.Context) error {
	root := filepath.Join(l.dir, "floor", "rootfs")
	if err := l.rootfs(root); err != nil {
		return err
	}
	var one, many []bench.Side
	for _, engine := range []string{"crun", "runc"} {
		program, err := exec.LookPath(engine)
		if err != nil || !l.uses(engine) {
			continue
		}
		f := &floor{lab: l, program: program, root: root, dir: filepath.Join(l.dir, "floor", engine)}
		if err := os.Mkdir(f.dir, 0o700); err != nil {
			return err
		}
		plain, confined, err := l.hands(f)
		if err != nil {
			return err
		}
		one = append(one, bench.Side{Name: engine + " run", Run: f.one},
			bench.Side{Name: engine + ", a Pod by hand", Run: plain.one}, bench.Side{Name: engine + ", with seccomp", Run: confined.one})
		many = append(many, bench.Side{Name: engine + " run", Run: f.many},
			bench.Side{Name: engine + ", a Pod by hand", Run: plain.many}, bench.Side{Name: engine + ", with seccomp", Run: confined.many})
	}
	if len(one) == 0 {
		return nil
	}
	return errors.Join(
		l.table(ctx, "the OCI runtime alone: run --detach of the smallest container, until it returns; end is SIGKILL, the wait for it, and the removal of the cgroup.\n"+
			"A Pod by hand has namespaces, a veth pair, /dev/shm, an overlay, and the mounts and limits of the table pod as well, and gives them up at its end", l.Rounds, one),
		l.table(ctx, fmt.Sprintf("the same for %d containers, %d at once", l.Pods, clients), max(1, l.Rounds/5), many),
	)
}

type floor struct {
	lab                *lab
	program, root, dir string
	count              int
}

func (f *floor) one(ctx context.Context) (bench.Sample, error) {
	time.Sleep(rest)
	return f.crowd(ctx, 1)
}

func (f *floor) many(ctx context.Context) (bench.Sample, error) { return f.crowd(ctx, f.lab.Pods) }

// crowd runs containers and deletes them.
func (f *floor) crowd(ctx context.Context, size int) (s bench.Sample, err error) {
	ids := make([]string, size)
	for i := range ids {
		f.count++
		ids[i] = "floor-" + filepath.Base(f.lab.dir) + "-" + strconv.Itoa(f.count)
		if err := f.bundle(ids[i]); err != nil {
			return s, err
		}
	}
	s, err = bench.Timed(func() error {
		return each(ids, func(id string) error {
			dir := filepath.Join(f.dir, id)
			return f.execute(ctx, dir, "run", "--detach", "--pid-file", filepath.Join(dir, pidFile), "--bundle", dir, id)
		})
	})
	if err != nil {
		return s, err
	}
	time.Sleep(rest)
	end, err := bench.Timed(func() error { return each(ids, f.end) })
	s.Steps = append(s.Steps, bench.Step{Name: "end", Took: end.Total})
	for _, id := range ids {
		err = errors.Join(err, os.RemoveAll(filepath.Join(f.dir, "state", id)))
	}
	return s, err
}

// pidFile is the name of a container's PID file in its bundle.
const pidFile = "pid"

// end ends a container with the kernel's means.
func (f *floor) end(id string) error {
	if err := kill(filepath.Join(f.dir, id, pidFile)); err != nil {
		return err
	}
	return cgroup.Destroy(f.lab.group + "/" + id)
}

// kill ends the process whose ID is in a file, and waits for its end.
func kill(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// execute runs the OCI runtime. What it starts keeps its output open, so the output is
// a file in dir.
func (f *floor) execute(ctx context.Context, dir string, args ...string) error {
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, f.program, append([]string{"--root", filepath.Join(f.dir, "state")}, args...)...) //nolint:gosec // crun or runc of PATH
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s %s: %w\n%s", f.program, args[0], err, text)
	}
	return nil
}

// rootfs creates the root file system of the minimal container.
func (l *lab) rootfs(root string) error {
	for _, sub := range []string{"proc", "dev", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	return copyProgram(l.Podtool, filepath.Join(root, "podtool"))
}

// bundle writes the minimal container that both OCI runtimes accept.
func (f *floor) bundle(id string) error {
	doc := smallest(f.root, f.lab.group+"/"+id)
	for _, kind := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace} {
		doc.Linux.Namespaces = append(doc.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	dir := filepath.Join(f.dir, id)
	return errors.Join(os.Mkdir(dir, 0o700), writeBundle(dir, doc))
}

// smallest returns a spec with a process and a mount namespace; the caller adds those
// that Pods share.
func smallest(root, group string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: root},
		Process: &specs.Process{Args: []string{"/podtool", "pause"}, Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: group,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		},
	}
}

func writeBundle(dir string, doc *specs.Spec) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600)
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
