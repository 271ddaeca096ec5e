package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// exec runs a probe's command in a container.
func (k *Kubelet) exec(ctx context.Context, id string, command []string, timeout time.Duration) (int32, string, error) {
	// The runtime enforces the timeout; the extra time is for its answer. Only the end
	// of the probe, or of the node, interrupts the call.
	probing := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout+5*time.Second)
	defer cancel()
	defer context.AfterFunc(probing, func() {
		if errors.Is(probing.Err(), context.Canceled) {
			cancel()
		}
	})()
	resp, err := k.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
	if err != nil {
		return 0, "", fmt.Errorf("running a probe's command: %w", err)
	}
	return resp.ExitCode, string(resp.Stdout) + string(resp.Stderr), nil
}

// facts describe the runtime, as reported by itself.
type facts struct {
	version *runtimeapi.VersionResponse
	systemd bool // uses the systemd cgroup driver
}

// meet waits until the runtime answers, and queries it. It starts again if the runtime
// disappears meanwhile, or answers only the version request.
func (k *Kubelet) meet(ctx context.Context) (met facts, err error) {
	err = k.patiently(ctx, slog.LevelInfo, func() (err error) {
		met, err = k.ask(ctx)
		return err
	})
	return met, err
}

// awaitReady waits until the runtime reports that it is ready. Any error of its status
// call means that it is not ready yet.
func (k *Kubelet) awaitReady(ctx context.Context) error {
	return k.patiently(ctx, slog.LevelWarn, func() error {
		resp, err := k.runtimeStatus(ctx)
		if err != nil {
			return fault.Unavailable.Wrap(err)
		}
		return falseOf(resp, runtimeapi.RuntimeReady)
	})
}

// patiently calls ask until its error is not that the runtime is unavailable, with
// increasing delays, and logs each reason once.
func (k *Kubelet) patiently(ctx context.Context, level slog.Level, ask func() error) error {
	told := ""
	for failures := 1; ; failures++ {
		err := ask()
		if ctx.Err() != nil || !errors.Is(err, fault.Unavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if text := err.Error(); text != told {
			told = text
			k.config.Logger.Log(ctx, level, "waiting for the runtime", "err", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pod.Backoff(failures, 10*time.Millisecond, time.Second)):
		}
	}
}

// ask waits for the runtime's answers no longer than one call may take: a call that is
// never answered must not block the node forever.
func (k *Kubelet) ask(ctx context.Context) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMost)
	defer cancel()
	version, err := k.cri.Wait(ctx)
	if err != nil {
		return facts{}, err
	}
	systemd, err := k.systemdCgroups(ctx)
	return facts{version, systemd}, err
}

// answerMost is the kubelet's own deadline for a call.
const answerMost = 2 * time.Minute

// systemdCgroups reports whether the runtime uses the systemd cgroup driver. If the
// runtime does not say, the configuration decides.
func (k *Kubelet) systemdCgroups(ctx context.Context) (bool, error) {
	resp, err := k.cri.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	asked := k.config.SystemdCgroups
	switch {
	case errors.Is(err, fault.Unimplemented) || err == nil && resp.GetLinux() == nil:
	case err != nil:
		return false, fmt.Errorf("asking the runtime for its cgroup driver: %w", err)
	default:
		asked = resp.Linux.CgroupDriver == runtimeapi.CgroupDriver_SYSTEMD
	}
	if asked && !cgroup.Systemd() {
		// A runtime that omits the field seems to report systemd, too, and one that
		// means it rejects every Pod by itself.
		k.config.Logger.Warn("the runtime says that systemd makes its cgroups, and systemd is not process 1 here: files are used")
		return false, nil
	}
	return asked, nil
}

// healthy returns an error if the runtime does not answer or one of its conditions is
// false.
func (k *Kubelet) healthy(ctx context.Context) error {
	resp, err := k.runtimeStatus(ctx)
	if err != nil {
		return err
	}
	return falseOf(resp, runtimeapi.RuntimeReady, runtimeapi.NetworkReady)
}

// networkReady returns the reason why the runtime cannot connect Pods, or nil. If the
// runtime does not answer, nothing is known about its network.
func (k *Kubelet) networkReady(ctx context.Context) error {
	resp, err := k.runtimeStatus(ctx)
	if err != nil {
		return nil //nolint:nilerr // whoever asks has another error already
	}
	return falseOf(resp, runtimeapi.NetworkReady)
}

func (k *Kubelet) runtimeStatus(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := k.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for its status: %w", err)
	}
	return resp, nil
}

// falseOf returns an error for the first of the conditions that is false.
func falseOf(resp *runtimeapi.StatusResponse, conditions ...string) error {
	for _, c := range resp.GetStatus().GetConditions() {
		if !c.Status && slices.Contains(conditions, c.Type) {
			return fault.Unavailable.Errorf("the runtime says that %s is false: %s", c.Type, c.Message)
		}
	}
	return nil
}

// sandbox returns the ID of the Pod's ready sandbox.
func (k *Kubelet) sandbox(ctx context.Context, uid types.UID) (string, error) {
	resp, err := k.cri.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{pod.LabelPodUID: string(uid), pod.LabelNode: k.config.ID},
	}})
	if err != nil {
		return "", fmt.Errorf("looking for the Pod's sandbox: %w", err)
	}
	if len(resp.Items) == 0 {
		return "", fault.FailedPrecondition.Errorf("the Pod has no sandbox that is ready")
	}
	return resp.Items[0].Id, nil
}
