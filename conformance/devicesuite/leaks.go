package devicesuite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

func leakRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		{
			ID: "DEV-LEAK-001", Level: conformance.Should, Tier: conformance.Crash,
			Title: "ends on SIGTERM and leaves no process",
			Spec: specOf("Kubernetes documentation, Pod Lifecycle", "Termination of Pods",
				"the container runtime sends a TERM signal to the main process in each container; once the grace period has expired, the KILL signal is sent to any remaining processes"),
			Check: checkEnd,
		},
		{
			ID: "DEV-LEAK-002", Level: conformance.Should, Tier: conformance.Crash,
			Title: "removes its socket when it ends on SIGTERM",
			Spec: specOf(docs, "Device plugin implementation",
				"The plugin starts a gRPC service, with a Unix socket under the host path /var/lib/kubelet/device-plugins/"),
			Check: with(checkSocketGone),
		},
		{
			ID: "DEV-LEAK-003", Level: conformance.Should, Tier: conformance.Crash,
			Title: "holds no more descriptors after many restarts of the kubelet than after one",
			Spec: specOf(docs, "Handling kubelet restarts",
				"A device plugin is expected to detect kubelet restarts and re-register itself with the new kubelet instance."),
			Check: with(checkDescriptors),
		},
	}
}

// checkEnd marks the plugin's environment, which its descendants inherit even if they
// leave the process group.
func checkEnd(ctx context.Context, in *conformance.Input[Target]) error {
	mark := "NODEKIT_SUITE=" + in.TempDir
	in.Target.Env = append(slices.Clone(in.Target.Env), mark)
	return with(func(ctx context.Context, b *bench) error {
		if _, _, _, err := b.ready(ctx, ""); err != nil {
			return err
		}
		if err := b.terminate(); err != nil {
			return err
		}
		left := marked(mark)
		for wait := 5 * time.Millisecond; len(left) > 0 && wait < time.Second; wait *= 2 {
			if err := pause(ctx, wait); err != nil {
				return err
			}
			left = marked(mark)
		}
		if len(left) > 0 {
			return fmt.Errorf("the plugin ended and left the processes %q", left)
		}
		return nil
	})(ctx, in)
}

// marked returns the processes with the mark in their environment.
func marked(mark string) []string {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is good
	var out []string
	for _, path := range environs {
		env, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(env, []byte(mark)) {
			continue // gone, or another user's
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		name := string(bytes.TrimSpace(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		out = append(out, filepath.Base(filepath.Dir(path))+" "+name)
	}
	return out
}

// terminate sends SIGTERM and gives the plugin the time that a Pod has.
func (b *bench) terminate() error {
	b.letGo()
	return b.plugin.Stop(b.patience)
}

func checkSocketGone(ctx context.Context, b *bench) error {
	if _, _, _, err := b.ready(ctx, ""); err != nil {
		return err
	}
	if err := b.terminate(); err != nil {
		return err
	}
	left, err := sockets(b.dir())
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("the plugin ended and left the sockets %q", left)
	}
	return err
}

// checkDescriptors compares one restart with several more. Goroutines, buffers and
// pools need some descriptors, so a few are allowed, and those for an earlier kubelet
// may take a while to go. There are fewer restarts for a plugin that looks for a new
// kubelet only every ten seconds, as that of the Kubernetes tests does.
func checkDescriptors(ctx context.Context, b *bench) error {
	const most, least, enough = 8, 4, 45 * time.Second
	r, _, _, err := b.ready(ctx, "")
	if err != nil {
		return err
	}
	var first, restarts int
	for began := time.Now(); restarts <= most && (restarts <= least || time.Since(began) < enough); restarts++ {
		if err := b.restart(ctx, 0); err != nil {
			return err
		}
		if _, _, _, err := b.ready(ctx, r.request.GetResourceName()); err != nil {
			return err
		}
		if restarts == 0 {
			if first, err = b.descriptors(ctx); err != nil {
				return err
			}
		}
	}
	if b.ends.Load() > 0 {
		return conformance.NotApplicable("the plugin ends when the kubelet restarts")
	}
	more := restarts - 1
	for deadline := time.Now().Add(b.patience); ; {
		last, err := b.descriptors(ctx)
		if err != nil || last <= first+more/2 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the plugin holds %d descriptors after one restart of the kubelet and %d after %d more", first, last, more)
		}
	}
}

// descriptors counts the plugin's open descriptors, after it has had time to close
// those that it no longer needs.
func (b *bench) descriptors(ctx context.Context) (int, error) {
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.plugin.PID()))
	if err != nil {
		return 0, fmt.Errorf("counting the plugin's descriptors: %w", err)
	}
	return len(entries), nil
}
