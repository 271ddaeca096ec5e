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

	"github.com/nodekit-project/nodekit/internal/bench"
)

// floor measures the OCI runtimes alone, without a CRI runtime: what no CRI
// runtime that executes them can be faster than. The container is the smallest:
// no network, no image, no seccomp profile, no limits.
func (l *lab) floor(ctx context.Context) error {
	var sides []bench.Side
	for _, engine := range []string{"crun", "runc"} {
		program, err := exec.LookPath(engine)
		if err != nil {
			continue
		}
		bundle := filepath.Join(l.dir, "floor-"+engine)
		if err := l.bundle(bundle); err != nil {
			return err
		}
		f := &floor{lab: l, program: program, bundle: bundle, state: filepath.Join(bundle, "state")}
		sides = append(sides, bench.Side{Name: engine + " run", Run: f.run})
	}
	t, err := bench.Run(ctx, sides, &bench.Options{Rounds: l.Rounds, WarmUp: 1, Progress: l.Progress})
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(l.Out, "\nthe OCI runtime alone: run --detach of the smallest container, until it returns; delete is delete --force\n")
	return errors.Join(err, t.Write(l.Out))
}

type floor struct {
	lab                    *lab
	program, bundle, state string
	count                  int
}

func (f *floor) run(ctx context.Context) (s bench.Sample, err error) {
	time.Sleep(rest)
	f.count++
	id := "floor-" + filepath.Base(f.lab.dir) + "-" + strconv.Itoa(f.count)
	s, err = bench.Timed(func() error { return f.execute(ctx, "run", "--detach", "--bundle", f.bundle, id) })
	if err != nil {
		return s, err
	}
	time.Sleep(rest)
	end, err := bench.Timed(func() error { return f.execute(ctx, "delete", "--force", id) })
	s.Steps = append(s.Steps, bench.Step{Name: "delete", Took: end.Total})
	return s, err
}

// execute runs the OCI runtime. What it starts keeps its output open, so that the
// output is a file.
func (f *floor) execute(ctx context.Context, args ...string) error {
	out, err := os.Create(filepath.Join(f.bundle, "output"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, f.program, append([]string{"--root", f.state}, args...)...) //nolint:gosec // crun or runc of PATH
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s %s: %w\n%s", f.program, args[0], err, text)
	}
	return nil
}

// bundle writes the smallest container that both OCI runtimes run.
func (l *lab) bundle(dir string) error {
	root := filepath.Join(dir, "rootfs")
	for _, sub := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	if err := copyProgram(l.Podtool, filepath.Join(root, "podtool")); err != nil {
		return err
	}
	doc := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/podtool", "sleep", "forever"}, Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: l.group + "/" + filepath.Base(dir),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
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
