package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// criDoor drives a CRI runtime for the CNI suite for runtimes: a container of the suite
// is a sandbox. It is here because a suite of one family must not import another.
type criDoor struct {
	command []string
	ready   string // repeated by a shell until it succeeds; "" means none
}

const (
	doorLabel = "conformance.nodekit.dev/cni-runtime"
	doorStart = 30 * time.Second
)

// criRuntime is a runtime that the door has started.
type criRuntime struct {
	criDoor
	*client.Client
	process *supervisor.Process
	env     []string
	dir     string
}

func (d criDoor) open(ctx context.Context, dirs cniruntimesuite.Dirs) (*cniruntimesuite.Runtime, error) {
	endpoint := "unix://" + filepath.Join(filepath.Dir(dirs.State), "s.sock")
	places := map[string]string{
		"CONTAINER_RUNTIME_ENDPOINT": endpoint, "STATE_DIRECTORY": dirs.State, "CNI_CONF_DIR": dirs.Conf, "CNI_BIN_DIR": dirs.Bin,
	}
	r := &criRuntime{criDoor: d, dir: dirs.State, env: os.Environ()}
	var pairs []string
	for name, value := range places {
		pairs = append(pairs, "$("+name+")", value)
		r.env = append(r.env, name+"="+value)
	}
	args := make([]string, len(d.command))
	for i, arg := range d.command {
		args[i] = strings.NewReplacer(pairs...).Replace(arg)
	}
	var err error
	if r.process, err = supervisor.Start(supervisor.Command{Path: args[0], Args: args[1:], Env: r.env}); err != nil {
		return nil, err
	}
	if r.Client, err = client.Dial(endpoint, nil); err == nil {
		err = r.await(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, r.end())
	}
	return &cniruntimesuite.Runtime{Add: r.add, Del: r.del, Status: r.status, Restart: r.restart, Close: r.close}, nil
}

func (r *criRuntime) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, doorStart)
	defer cancel()
	ended := r.process.Done()
	go func() { // no need to wait for a runtime that is dead
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		_, err := r.Wait(ctx)
		if err == nil {
			break
		}
		select {
		case <-ended:
			return fmt.Errorf("the runtime ended (%s) before it answered\nit printed: %s", r.process.Ending(), r.process.LifeTail())
		default:
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the runtime does not answer: %w\nit printed: %s", err, r.process.Tail())
		case <-time.After(50 * time.Millisecond): // some answer that they are not ready yet
		}
	}
	for r.ready != "" {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", r.ready)
		cmd.Env = r.env
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s\nthe runtime printed: %s", r.ready, err, out, r.process.Tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func (r *criRuntime) restart(ctx context.Context) error {
	if err := r.process.Restart(); err != nil {
		return err
	}
	return r.await(ctx)
}

func (r *criRuntime) add(ctx context.Context, c cniruntimesuite.Container) error {
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: c.ID, Namespace: "conformance", Uid: c.ID},
		Hostname:     c.ID,
		Labels:       map[string]string{doorLabel: c.ID},
		LogDirectory: r.dir,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	for _, p := range c.Ports {
		config.PortMappings = append(config.PortMappings, &runtimeapi.PortMapping{HostPort: int32(p.HostPort), ContainerPort: int32(p.ContainerPort)})
	}
	_, err := r.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	return err
}

// del removes every sandbox of the container, as a kubelet does with an unwanted one.
func (r *criRuntime) del(ctx context.Context, c cniruntimesuite.Container) error {
	return r.remove(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{doorLabel: c.ID}})
}

func (r *criRuntime) remove(ctx context.Context, filter *runtimeapi.PodSandboxFilter) error {
	list, err := r.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range list.Items {
		_, err := r.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
		if err == nil {
			_, err = r.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *criRuntime) status(ctx context.Context) error {
	resp, err := r.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return err
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if c.GetType() == runtimeapi.NetworkReady && !c.GetStatus() {
			return fault.Unavailable.Errorf("%s: %s", c.GetReason(), c.GetMessage())
		}
	}
	return nil
}

func (r *criRuntime) close(ctx context.Context) error {
	return errors.Join(r.remove(ctx, nil), r.end())
}

// end stops the runtime, then what it left running on purpose, such as a container
// monitor, and unmounts what it left mounted: its directory is removed next.
func (r *criRuntime) end() error {
	errs := []error{r.process.Stop(5 * time.Second)}
	if r.Client != nil {
		errs = append(errs, r.Close())
	}
	return errors.Join(append(errs, supervisor.EndMarked(r.dir), mount.DetachTree(r.dir))...)
}
